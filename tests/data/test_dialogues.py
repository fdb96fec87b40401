"""Every answer is trained on behind the prompt that serving sends for it, whatever the template does to the history."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from eagle.data import preparation
from eagle.data.conversations import Prompts, TokenRow, read_conversations
from eagle.data.dialogues import rewrites_history
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.engine.batched import Answered, Job
from tests import tiny_text

END = 257
OPEN, CLOSE = "<|im_start|>{{ m['role'] }}\n", "<|im_end|>\n{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}<|im_start|>assistant\n"
LAST_USER = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
WITHOUT_THOUGHTS = (
    "{% if m['role'] == 'assistant' and loop.index0 < ns.last %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}{% else %}{{ m['content'] }}{% endif %}"
)
QWEN3 = LAST_USER + "{% for m in messages %}" + OPEN + WITHOUT_THOUGHTS + CLOSE + ASSISTANT + "{% endif %}"
DEEPSEEK = (
    "{% for m in messages %}"
    + OPEN
    + "{{ m['content'].split('</think>')[-1] }}"
    + CLOSE
    + ASSISTANT
    + "<think>\n{% endif %}"
)
TRIMMING = "{% for m in messages %}" + OPEN + "{{ m['content'] | trim }}" + CLOSE + ASSISTANT + "{% endif %}"
ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ENDLESS += "{% if add_generation_prompt %}assistant: {% endif %}"
FORGETFUL = "{% for m in messages[-1:] %}" + OPEN + "{{ m['content'] }}" + CLOSE + ASSISTANT + "{% endif %}"
OTHER_TAGS = QWEN3.replace("</think>", "</seed>")
TEMPLATES = {
    "chatml": tiny_text.CHATML,
    "qwen3": QWEN3,
    "deepseek": DEEPSEEK,
    "trimming": TRIMMING,
    "endless": ENDLESS,
    "forgetful": FORGETFUL,
    "other tags": OTHER_TAGS,
}
THINKING = [
    "<think>\nA greeting.\n</think>\n\nHello!",
    "<think>\nThey ask.\n</think>\n\nWell. ",
    "Fine </seed>now",
    "Bye.",
]
PLAIN = ["Hello!", "Well.", "Fine.", "Bye."]


class Script:
    """A target that answers the n-th turn with the n-th text, and ends it; several turns of a job as lanes do it."""

    def __init__(self, tokenizer, answers: list[str]):
        self._tokenizer, self._answers = tokenizer, answers
        self.num_jobs = 0

    def answer(self, jobs: Iterable[Job]) -> Iterator[Answered]:
        for job in jobs:
            self.num_jobs += 1
            result = Answered(job, [])
            for run in job.runs:
                result.input_ids += run[1:] if result.input_ids and run[0] == result.input_ids[-1] else run
                start = len(result.input_ids)
                number = int(self._tokenizer.decode(result.input_ids).rsplit("Turn ", 1)[1][0])
                result.input_ids += [*self._tokenizer(self._answers[number]).input_ids, END]
                result.spans.append((start, len(result.input_ids)))
                result.finish.append("stop")
            yield result


def config(tmp_path: Path, **changes) -> PrepareConfig:
    messages = []
    for number, answer in enumerate(THINKING):
        messages += [{"role": "user", "content": f"Turn {number}"}, {"role": "assistant", "content": answer}]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "c", "messages": messages}) + "\n")
    values = {"max_turns": 4, "part": "all", "overlap_filter": False, "system": "Be kind.", "num_lanes": 12}
    places = {"output": str(tmp_path / "rows"), "prompts": str(tmp_path / "prompts.jsonl")}
    return PrepareConfig(**{**values, **places, **changes})


def rows_of(config: PrepareConfig, tokenizer, model=None) -> list[TokenRow]:
    prepare(config, model, tokenizer, frozenset([END]))
    return list(read_conversations(Path(config.output), config.max_length, tiny_text.VOCAB_SIZE, Counter()))[::-1]


def regenerated(config: PrepareConfig, tokenizer, answers: list[str], monkeypatch) -> tuple[list[TokenRow], int]:
    script = Script(tokenizer, answers)
    monkeypatch.setattr(preparation, "BatchedDecoder", lambda *args: script)
    return rows_of(config, tokenizer, model=object()), script.num_jobs


def assert_served(rows: list[TokenRow], tokenizer, config: PrepareConfig, answers: list[str]) -> None:
    """Before each answer stands what serving sends, an answer is what was said, and none is missing or repeated."""
    prompts, turn = Prompts(tokenizer, config.system, config.template), 0
    for row in rows:
        for start, end in row.assistant_spans:
            text = prompts.text([f"Turn {n}" for n in range(turn + 1)], answers[:turn])
            assert row.input_ids[:start] == prompts.ids(text)
            assert tokenizer.decode(list(row.input_ids[start:end])) in (answers[turn], answers[turn] + "<|im_end|>")
            turn += 1
    assert turn == len(answers)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answers", [THINKING, PLAIN], ids=["thinking", "plain"])
def test_regenerated_answers_stand_behind_what_serving_sends(name, answers, tmp_path, monkeypatch):
    """Thoughts of earlier answers are dropped by the templates of reasoning models: a head trained behind them met,
    from the second turn on, prompts that no serving ever sends."""
    settings, tokenizer = config(tmp_path), tiny_text.tokenizer(TEMPLATES[name])
    rows, _ = regenerated(settings, tokenizer, answers, monkeypatch)
    assert_served(rows, tokenizer, settings, answers)
    assert {row.group for row in rows} == {"c"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_kept_answers_stand_behind_what_serving_sends(name, tmp_path):
    settings, tokenizer = config(tmp_path, answers="original"), tiny_text.tokenizer(TEMPLATES[name])
    assert_served(rows_of(settings, tokenizer), tokenizer, settings, THINKING)


def test_a_row_goes_on_where_the_template_keeps_what_was_said(tmp_path, monkeypatch):
    tokenizer = tiny_text.tokenizer(QWEN3)
    rows, num_jobs = regenerated(config(tmp_path), tokenizer, PLAIN, monkeypatch)
    assert [(row.id, len(row.assistant_spans)) for row in rows] == [("c", 4)] and num_jobs == 4


def test_rows_are_split_where_it_does_not(tmp_path, monkeypatch):
    rows, _ = regenerated(config(tmp_path), tiny_text.tokenizer(QWEN3), THINKING, monkeypatch)
    assert [(row.id, row.finish) for row in rows] == [
        ("c", ("stop",)),
        ("c/turn-2", ("stop",)),
        ("c/turn-3", ("stop",) * 2),
    ]
    assert [len(row.messages) for row in rows] == [2, 4, 8]
    assert rows[2].messages[1]["content"] == THINKING[0], "the conversation as it was"


def test_a_real_target_is_asked_turn_by_turn(tmp_path):
    """Through the lanes: what is asked next depends on what was answered, and waits for it."""
    settings, tokenizer = config(tmp_path, max_new_tokens=12, greedy_share=0.0), tiny_text.tokenizer(QWEN3)
    row = json.loads(Path(settings.prompts).read_text())
    openings = [{"role": "user", "content": f"Turn {number}"} for number in range(9)]
    rows = [{"id": f"c{n}", "messages": [opening, *row["messages"][1:]]} for n, opening in enumerate(openings)]
    Path(settings.prompts).write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_text.target()
    model.lm_head.weight.data[END] *= 3  # answers end, now and then
    found, prompts = rows_of(settings, tokenizer, model), Prompts(tokenizer, settings.system)
    assert {row.conversation for row in found} == {f"c{n}" for n in range(9)}
    assert max(len(row.messages) for row in found) > 2
    for row in found:
        spoken, before = [message["content"] for message in row.messages], len(row.messages) - 2 * len(row.finish)
        text = prompts.text([*spoken[0:before:2], spoken[before]], spoken[1:before:2])
        assert row.input_ids[: row.assistant_spans[0][0]] == prompts.ids(text)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.9, 0.999])
def test_a_conversation_cut_between_its_rows_is_answered_again(share, tmp_path, monkeypatch):
    """Its first row stands behind the others: where a kill left only those, the conversation is not done."""
    settings, tokenizer = config(tmp_path), tiny_text.tokenizer(QWEN3)
    lines = [Path(settings.prompts).read_text().replace('"id": "c"', f'"id": "c{number}"') for number in range(3)]
    Path(settings.prompts).write_text("".join(line.replace("Turn 0", f"Turn 0{n}") for n, line in enumerate(lines)))
    expected, _ = regenerated(settings, tokenizer, THINKING, monkeypatch)
    assert len(expected) == 9
    path = Path(settings.output) / "conversations-0-of-1.jsonl"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    again, _ = regenerated(settings, tokenizer, THINKING, monkeypatch)
    assert len(again) == 9 and {row.id: row for row in again} == {row.id: row for row in expected}


def test_a_plain_template_is_answered_in_one_go(tmp_path, monkeypatch):
    rows, num_jobs = regenerated(config(tmp_path), tiny_text.tokenizer(), THINKING, monkeypatch)
    assert [(row.id, len(row.assistant_spans)) for row in rows] == [("c", 4)] and num_jobs == 1


def test_history_rewritten_in_a_way_nobody_foresaw_is_asked_again(tmp_path, monkeypatch):
    """The template drops what stands before another tag: the turns behind it, drafted in one go, were asked wrongly."""
    tokenizer = tiny_text.tokenizer(OTHER_TAGS)
    assert not rewrites_history(Prompts(tokenizer))
    rows, num_jobs = regenerated(config(tmp_path), tokenizer, THINKING, monkeypatch)
    assert [len(row.assistant_spans) for row in rows] == [3, 1] and num_jobs == 2


def test_a_template_by_name_serves_a_tokenizer_without_one(tmp_path, monkeypatch):
    settings, tokenizer = config(tmp_path, template="vicuna_v1.1"), tiny_text.tokenizer(None)
    rows, _ = regenerated(settings, tokenizer, PLAIN, monkeypatch)
    assert_served(rows, tokenizer, settings, PLAIN)
    with pytest.raises(ValueError, match="no chat template: name a FastChat one, such as --template"):
        rows_of(config(tmp_path, output=str(tmp_path / "other")), tokenizer, model=object())


def test_a_template_that_takes_no_system_prompt_is_an_error_at_once(tmp_path):
    """Not a reason to skip every conversation one by one."""
    tokenizer = tiny_text.tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(ValueError, match="System role not supported"):
        rows_of(config(tmp_path, answers="original"), tokenizer)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_template_of_few_turns_ends_conversations_behind_them(most, tmp_path, monkeypatch):
    refusing = f"{{% if messages | length > {2 * most} %}}{{{{ raise_exception('enough') }}}}{{% endif %}}"
    tokenizer = tiny_text.tokenizer(refusing + tiny_text.CHATML)
    settings = config(tmp_path, answers="original", system=None)
    skipped = prepare(settings, None, tokenizer, frozenset([END]))
    assert skipped == {"later turns: the chat template refuses the conversation (enough)": 1}
    kept = list(read_conversations(Path(settings.output), 2048, tiny_text.VOCAB_SIZE, Counter()))
    again = config(tmp_path, output=str(tmp_path / "again"), system=None)
    made, _ = regenerated(again, tokenizer, THINKING, monkeypatch)
    assert [len(row.assistant_spans) for row in kept] == [len(row.assistant_spans) for row in made] == [most]

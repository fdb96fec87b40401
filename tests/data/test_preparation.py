"""The whole path from a file of conversations to rows, with a tiny target; killed, resumed and split."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from eagle import options
from eagle.data.conversations import TokenRow, TokenRowFile, end_of_turn, read_conversations, template_runs
from eagle.data.jobs import keep_answers
from eagle.data.overview import as_text, collect_statistics
from eagle.data.preparation import of_part, prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prompts import Conversation
from eagle.engine.batched import Job
from eagle.files import only_writer
from tests import tiny_text

END = frozenset([257])
QUESTION = "one two three four five six seven eight nine ten eleven"


@pytest.fixture
def config(tmp_path) -> PrepareConfig:
    path = tmp_path / "prompts.jsonl"
    rows = [conversation(f"c{i}", f"Question {i}", f"Answer {i}", "And then?", "Nothing.") for i in range(9)]
    rows += [conversation("long", "x" * 500), conversation("asked", QUESTION), {"id": "empty", "messages": []}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PrepareConfig(
        output=str(tmp_path / "rows"),
        prompts=str(path),
        greedy_share=0.5,
        max_prompt_tokens=120,
        max_new_tokens=8,
        max_length=200,
        num_lanes=2,
        group_size=1,
    )


@pytest.fixture
def keeping(config) -> PrepareConfig:
    return replace(config, answers="original")


def conversation(id: str, *texts: str) -> dict:
    roles = ["user", "assistant"] * len(texts)
    return {"id": id, "messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


def run(config: PrepareConfig, model=None) -> tuple[dict[str, TokenRow], Counter]:
    skipped = prepare(config, model, tiny_text.tokenizer(), END, {"bench": [QUESTION]})
    rows = list(read_conversations(Path(config.output), config.max_length, tiny_text.VOCAB_SIZE, Counter()))
    assert len({row.id for row in rows}) == len(rows), "a row was repeated"
    return {row.id: row for row in rows}, skipped


def test_conversations_are_answered_or_left_out_with_a_reason(config):
    rows, skipped = run(config, tiny_text.target())
    assert rows.keys() == {f"c{i}" for i in range(9)}
    assert skipped == {
        "no turns under 'conversations' or 'messages'": 1,
        "overlaps with bench": 1,
        "the first prompt is longer than 120 tokens": 1,
    }
    assert {row.temperature for row in rows.values()} == {0.0, 1.0}
    start, end = rows["c0"].assistant_spans[0]
    prompt = str(tiny_text.tokenizer().decode(list(rows["c0"].input_ids[:start])))
    assert prompt.endswith("<|im_start|>user\nQuestion 0<|im_end|>\n<|im_start|>assistant\n")
    assert 0 < end - start <= 8


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_killed_run_goes_on_without_losing_or_repeating_a_row(config, monkeypatch, tmp_path, kept):
    """Killed in the middle of writing a line: the half line is dropped and its conversation answered again."""
    model = tiny_text.target()
    expected, _ = run(replace(config, output=str(tmp_path / "uninterrupted")), model)
    append, written = TokenRowFile.append, []

    def dying(self, row):
        if len(written) == kept:
            with self.path.open("a") as file:
                file.write('{"id": "c')
            raise KeyboardInterrupt
        written.append(row.id)
        append(self, row)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TokenRowFile, "append", dying)
        run(config, model)
    assert len(run(config, model)[0]) == 9
    assert run(config, model)[0] == expected


def test_shards_share_the_work(keeping):
    parts = [prepare(replace(keeping, shard=f"{i}/3"), None, tiny_text.tokenizer(), END, {}) for i in range(3)]
    assert all(len(list(TokenRowFile(path))) < 9 for path in Path(keeping.output).glob("conversations-*"))
    assert len(parts) == len(list(Path(keeping.output).glob("conversations-*"))) == 3
    rows = list(read_conversations(Path(keeping.output), 200, tiny_text.VOCAB_SIZE, Counter()))
    assert sorted(row.id for row in rows) == ["asked", *(f"c{i}" for i in range(9))][1:]


def test_what_is_held_out_is_never_trained_on(keeping):
    """Trap: a held-out set chosen from each data set anew: a later one is trained on what measured the first."""
    lines = [json.dumps(conversation(f"id-{i}", f"Question number {i}", "Yes.")) + "\n" for i in range(300)]
    Path(keeping.prompts).write_text("".join(lines))
    parts = {}
    for part in ("training", "held_out", "all"):
        settings = replace(keeping, part=part, output=f"{keeping.output}-{part}", seed=len(parts))
        parts[part] = run(settings)[0].keys()
    assert not parts["training"] & parts["held_out"] and parts["training"] | parts["held_out"] == parts["all"]
    assert len(parts["all"]) == 300 and 0 < len(parts["held_out"]) < 20
    with pytest.raises(ValueError, match="part is 'test', choose one of training, held_out, all"):
        replace(keeping, part="test")


IDS = {
    "numbered": "ultrachat_{}",
    "file": "my_data.jsonl-{}",
    "parts": "a_b_{}_c",
    "plain": "{}",
    "path": "set/{}/0",
    "long": "id-" + "x" * 200 + "_{}",
}


@pytest.mark.parametrize("form", IDS.values(), ids=IDS.keys())
def test_ids_of_any_form_are_held_out_one_in_fifty(form):
    """The number behind the last underscore was taken for a piece's in every source: `ultrachat_0`, `ultrachat_1` and
    so on were one conversation, and either all of a file was held out or nothing."""
    found = [Conversation(form.format(number), "mine.jsonl", ()) for number in range(4000)]
    share = len([*of_part(found, "held_out", Counter())]) / len(found)
    assert 0.01 < share < 0.03  # 0.02 +- 0.0022: five standard errors


def test_pieces_of_one_sharegpt_conversation_are_on_one_side():
    pieces = [Conversation(f"{name}_{piece}", "sharegpt", ()) for name in range(500) for piece in range(3)]
    held_out = {c.id for c in of_part(pieces, "held_out", Counter())}
    assert held_out and {f"{name.split('_')[0]}_{piece}" for name in held_out for piece in range(3)} == held_out


def test_rows_made_otherwise_are_not_mixed(keeping):
    run(keeping)
    with pytest.raises(ValueError, match=r"seed was 0, is 1\): use those or another --output"):
        run(replace(keeping, seed=1))
    run(replace(keeping, threads=1))


def test_a_directory_is_continued_whatever_its_prompts_are_called_now(keeping, tmp_path, monkeypatch):
    """A folder that was moved, or named relatively, was "started with something else"."""
    first = run(keeping)[0]
    monkeypatch.chdir(tmp_path)
    assert run(replace(keeping, prompts="prompts.jsonl", output="rows"))[0] == first
    (tmp_path / "moved").mkdir()
    for name in ("rows", "prompts.jsonl"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = replace(keeping, prompts="moved/prompts.jsonl", output="moved/rows")
    assert run(moved)[0] == first
    (tmp_path / "other.jsonl").write_text((tmp_path / "moved" / "prompts.jsonl").read_text())
    with pytest.raises(ValueError, match=r"prompts was .*, is 'other\.jsonl'.*another --output"):
        run(replace(moved, prompts="other.jsonl"))


def test_prompts_that_were_edited_are_not_passed_off_as_answered(keeping):
    run(keeping)
    path = Path(keeping.prompts)
    path.write_text(path.read_text() + json.dumps(conversation("new", "More?", "More.")) + "\n")
    assert "new" in run(keeping)[0], "a file may grow"
    text = path.read_text()
    (line,) = [line for line in text.splitlines() if '"c3"' in line]
    for old, new in (("Question 3", "Quite another"), ("And then?", "And now?")):
        path.write_text(text.replace(line, line.replace(old, new)))
        with pytest.raises(ValueError, match=r"answers another prompt than the one now named 'c3': .* another --out"):
            run(keeping)


def test_damaged_and_unfinished_rows_are_made_again(keeping, capsys):
    expected, _ = run(keeping)
    path = Path(keeping.output) / "conversations-0-of-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # its first row would have come behind it
    stray = json.dumps(json.loads(lines[0]) | {"id": "c77/turn-2", "conversation": "c77"}) + "\n"
    path.write_text("".join([*lines[:3], "\0\0\0\n", lines[3][:30] + "\n", stray, "[]\n", *lines[4:7], lines[7][:9]]))
    assert run(keeping)[0] == expected
    assert "4 damaged or unfinished rows are made again" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0", "\xff"])
def test_damaged_settings_name_the_file_and_a_remedy(keeping, text):
    run(keeping)
    (Path(keeping.output) / "settings.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"settings\.json.*(restore|remove|right file)"):
        run(keeping)


def test_two_processes_do_not_write_one_shard(keeping):
    """Both found the same conversations missing, and every row was there twice."""
    with only_writer(Path(keeping.output)), pytest.raises(ValueError, match="being written by process"):
        run(keeping)
    with only_writer(Path(keeping.output) / ".shard-1-of-2"):
        prepare(replace(keeping, shard="0/2"), None, tiny_text.tokenizer(), END, {})
        with pytest.raises(ValueError, match="being written by process"):
            prepare(replace(keeping, shard="1/2"), None, tiny_text.tokenizer(), END, {})


def test_another_number_of_shards_is_refused(keeping):
    prepare(replace(keeping, shard="0/2"), None, tiny_text.tokenizer(), END, {})
    with pytest.raises(ValueError, match=r"holds conversations-0-of-2\.jsonl, this is shard 0/3: go on with as many"):
        prepare(replace(keeping, shard="0/3"), None, tiny_text.tokenizer(), END, {})


def test_what_killed_processes_left_is_removed(keeping):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    Path(keeping.output).mkdir()
    leftover = Path(keeping.output) / f".settings.json.{dead.pid}.tmp"
    leftover.write_text("half")
    run(keeping)
    assert not leftover.exists()


def test_prompts_without_any_use_are_an_error_with_reasons(keeping):
    path = Path(keeping.prompts)
    path.write_text('{"messages": []}\n{"messages": []}\nnonsense\n')
    with pytest.raises(ValueError, match=r"no usable conversation: 2 x no turns under .*, 1 x a line is not JSON$"):
        run(keeping)
    path.write_text("")
    with pytest.raises(ValueError, match="no usable conversation: it is empty"):
        run(keeping)
    path.write_text(json.dumps(conversation("a", "Hi", "Hello")) + "\n")
    with pytest.raises(ValueError, match="no usable conversation: 1 x not of the part 'held_out'"):
        run(replace(keeping, part="held_out"))
    path.write_text(json.dumps(conversation("a", "Hi")) + "\n")
    with pytest.raises(ValueError, match="no conversation could be answered: 1 x has no answer"):
        run(keeping)


def test_the_budget_of_answer_tokens_stops_the_run(keeping):
    rows, _ = run(replace(keeping, max_answer_tokens=20))
    assert 20 <= sum(row.num_answer_tokens for row in rows.values()) < 20 + 200
    assert 0 < len(rows) < 9


def test_kept_answers_give_the_very_text_of_the_template(keeping):
    """Byte tokens do not merge, so pieces must tokenise to the whole: nothing lost, doubled or misplaced."""
    rows, _ = run(keeping)
    tokenizer, row = tiny_text.tokenizer(), rows["c3"]
    whole = tokenizer(tokenizer.apply_chat_template(list(row.messages), tokenize=False)).input_ids
    assert [*row.input_ids, *tokenizer("\n").input_ids] == whole
    spoken = [str(tokenizer.decode(list(row.input_ids[start:end]))) for start, end in row.assistant_spans]
    assert spoken == ["Answer 3<|im_end|>", "Nothing.<|im_end|>"]
    assert int(row.loss_mask.sum()) == row.num_answer_tokens == len(tokenizer("".join(spoken)).input_ids)


@pytest.mark.parametrize(
    ("max_length", "spans", "finish"),
    [
        (12, [(2, 5), (6, 9)], ["stop"] * 2),
        (8, [(2, 5), (6, 8)], ["stop", "length"]),
        (6, [(2, 5)], ["stop"]),
        (2, [], []),
    ],
)
def test_answers_beyond_the_length_are_cut(max_length, spans, finish):
    answered = keep_answers(Job("a", ((1, 2), (9, 3)), 0.0, 0), [[4, 5], [6, 7]], (9,), max_length)
    assert (answered.spans, answered.finish) == (spans, finish)
    assert answered.input_ids == [1, 2, 4, 5, 9, 3, 6, 7, 9][: spans[-1][1] if spans else 0]


def test_a_model_is_needed_to_regenerate_and_only_then(config, keeping):
    with pytest.raises(ValueError, match="answers is 'regenerate': only 'regenerate' takes a model"):
        run(config)
    with pytest.raises(ValueError, match="answers is 'original'"):
        run(keeping, tiny_text.target())


def test_a_template_that_rewrites_its_history_ends_the_conversation():
    """Some templates drop the reasoning of earlier turns: what was generated cannot be kept as it was."""
    forgetful = "{% for m in messages[-1:] %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert len(template_runs(tiny_text.tokenizer(forgetful), ["a", "b"], None)) == 1
    assert len(template_runs(tiny_text.tokenizer(), ["a", "b"], None)) == 2


def test_the_system_prompt_is_the_configured_one():
    def first(system):
        return tiny_text.tokenizer().decode(list(template_runs(tiny_text.tokenizer(), ["a"], system)[0]))

    assert "system\nBe brief.<|im_end|>" in first("Be brief.")
    assert "system\nBe kind.<|im_end|>" in first(None)


def test_a_template_without_an_end_of_turn_gives_none():
    assert end_of_turn(tiny_text.tokenizer(), END) == (257,)
    assert end_of_turn(tiny_text.tokenizer("{% for m in messages %}{{ m['content'] }}\n{% endfor %}"), END) == ()


def test_the_reader_skips_and_cuts_what_does_not_fit(tmp_path):
    def line(**changes) -> str:
        row = {"id": "a", "source": "x", "temperature": 1.0, "seed": 0, "messages": [], "input_ids": [1, 2, 3, 4, 5, 6]}
        return json.dumps({**row, "assistant_spans": [[1, 3], [4, 6]], "finish": ["stop", "stop"], **changes}) + "\n"

    bad = [
        line(input_ids=[1, 2, 3, 4, 5, 99]),
        line(assistant_spans=[[5, 6]]),
        line(assistant_spans=[[4, 9]]),
        "{oops\n",
    ]
    (tmp_path / "conversations.jsonl").write_text(line() + "".join(bad) + line()[:40])
    skipped = Counter()
    (row,) = read_conversations(tmp_path, 5, 50, skipped)
    assert (row.input_ids, row.assistant_spans) == ((1, 2, 3, 4, 5), ((1, 3), (4, 5)))
    assert row.loss_mask.tolist() == [False, True, True, False, True]
    assert sum(skipped.values()) == 4
    assert skipped["has no answer within 5 tokens"] == 1
    with pytest.raises(FileNotFoundError, match="eagle-hsd prepare"):
        list(read_conversations(tmp_path / "nowhere", 5, 50, skipped))


def row_of(**changes) -> dict:
    row = {"id": "a", "source": "x", "temperature": 1.0, "seed": 0, "messages": [], "finish": ["stop"]}
    return {**row, "input_ids": [1, 2, 3, 4], "assistant_spans": [[1, 3]], **changes}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "a row is not an object"),
        ("text", "a row is not an object"),
        (None, "a row is not an object"),
        ({"id": "x"}, "a row lacks assistant_spans, finish"),
        (row_of(id=None), "a row's id is of type NoneType"),
        (row_of(id=["a"]), "a row's id is of type list"),
        (row_of(temperature="warm"), "a row's temperature is of type str"),
        (row_of(seed=True), "a row's seed is of type bool"),
        (row_of(messages={}), "a row's messages is of type dict"),
        (row_of(messages=["Hi"]), "a row's messages are not all objects"),
        (row_of(input_ids="1234"), "a row's input_ids is of type str"),
        (row_of(input_ids=[1, 2.0, 3, 4]), "not all whole numbers"),
        (row_of(input_ids=[1, True, 3, 4]), "not all whole numbers"),
        (row_of(input_ids=[1, None, 3, 4]), "not all whole numbers"),
        (row_of(input_ids=[1, [2], 3, 4]), "not all whole numbers"),
        (row_of(input_ids=[1, -2, 3, 4]), "has tokens outside 0..49"),
        (row_of(input_ids=[1, 10**30, 3, 4]), "has tokens outside 0..49"),
        (row_of(input_ids=[]), "missing, out of order or beyond its tokens"),
        (row_of(input_ids=[], assistant_spans=[[0, 0]]), "missing, out of order or beyond its tokens"),
        (row_of(assistant_spans=[]), "not pairs of whole numbers"),
        (row_of(assistant_spans=[[1, 2, 3]]), "not pairs of whole numbers"),
        (row_of(assistant_spans=[1, 3]), "not pairs of whole numbers"),
        (row_of(assistant_spans=[["1", "3"]]), "not pairs of whole numbers"),
        (row_of(assistant_spans=[[1.0, 3.0]]), "not pairs of whole numbers"),
        (row_of(assistant_spans=[[3, 1]]), "missing, out of order or beyond its tokens"),
        (row_of(assistant_spans=[[-1, 2]]), "missing, out of order or beyond its tokens"),
        (row_of(assistant_spans=[[1, 9]]), "missing, out of order or beyond its tokens"),
        (row_of(assistant_spans=[[2, 3], [1, 2]]), "missing, out of order or beyond its tokens"),
        (row_of(assistant_spans=[[2, 2]]), "has no answer within 64 tokens"),
    ],
)
def test_rows_that_are_none_are_counted_with_their_reason(tmp_path, row, reason):
    """Rows from elsewhere: a list, a float among tokens or a missing span ended in a traceback or in wrong masks."""
    good = [row_of(), row_of(id=7, extra="ignored"), row_of(id="g", group="whole")]
    lines = [json.dumps(value) for value in (*good, row)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "[" * 100000, ""]))
    skipped = Counter()
    found = list(read_conversations(tmp_path / "rows.jsonl", 64, 50, skipped))
    assert [(r.id, r.group) for r in found] == [("a", "a"), ("7", "7"), ("g", "whole")]
    assert sorted(skipped.values()) == [1, 1] and any(reason in text for text in skipped), skipped


def test_rows_of_before_know_their_conversation():
    pieces = [TokenRow.from_json(row_of(id=id, source="sharegpt")).group for id in ("abc_0", "abc_12")]
    assert pieces == ["abc"] * 2
    later = TokenRow.from_json(row_of(id="abc_0/turn-2", conversation="abc_0"))
    assert (later.conversation, later.group) == ("abc_0", "abc_0")
    assert TokenRow.from_json(row_of(id="mine/turn-2")).conversation == "mine/turn-2", "an id like any other"


def test_the_report_counts_everything(keeping):
    rows, skipped = run(keeping)
    statistics = collect_statistics(rows.values())
    assert statistics.num_rows == sum(statistics.lengths.values()) == 9
    assert statistics.num_answers == sum(statistics.finish.values()) == 18
    text = as_text(statistics, skipped)
    assert "9 conversations in 9 rows" in text and "1  overlaps with bench" in text and "18 stop" in text


CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))


def test_there_are_data_configs():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_data_config_loads_and_opens_with_its_command(path):
    assert isinstance(options.load(PrepareConfig, path), PrepareConfig)
    assert path.read_text().startswith(f"# eagle-hsd prepare --config configs/data/{path.name}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temprature": 1}, "unknown option temprature: known are"),
        ({"max_turns": "many"}, "max_turns is 'many', expected int"),
        ({"overlap_filter": "perhaps"}, "expected true or false"),
        ({"temperature": -1}, "temperature is -1.0, it must be at least 0"),
        ({"answers": "none"}, "choose one of regenerate, original"),
        ({"shard": "2/2"}, "expected 'i/n' with 0 <= i < n"),
        ({"num_lanes": 10, "group_size": 4}, "must be a multiple"),
        ({"dtype": "float17"}, "dtype is 'float17', choose one of bfloat16, float16, float32"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        options.build(PrepareConfig, values)


def test_flags_come_before_the_file_and_the_file_before_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 5\nmax_turns: 2\n")
    config = options.parse(PrepareConfig, "", ["--config", str(path), "--seed", "7", "--system", "none"])
    assert (config.seed, config.max_turns, config.max_new_tokens, config.system) == (7, 2, 400, None)

"""The loop on a tiny target: what is asked, in which order, what is written, and what a killed run leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eagle.options import identity
from evaluation.arms import Models
from evaluation.eval_config import EvalConfig
from evaluation.evaluate import check_arms
from evaluation.rows import ROWS, RUN, AnswerRow, Key, RunDirectory, is_degenerate
from evaluation.runner import BatchRunner, Runner, draw_seed, plan
from evaluation.tasks import TASKS, Question
from tests.evaluation.words import WordTokenizer
from tests.tiny import tiny_head, tiny_target

ARM_NAMES = ("autoregressive", "hf_generate", "hf_prompt_lookup", "eagle3", "hsd", "chain:depth=2+tokenwise")
CONFIG = EvalConfig(tasks=("mt_bench", "gsm8k"), arms=ARM_NAMES, seeds=2, max_new_tokens=8)
QUESTIONS = {
    "mt_bench": [Question("m0", ("w5 w6 w7", "w8")), Question("m1", ("w9 w10", "w11 w12"))],
    "gsm8k": [Question("g0", ("w1 w2 w3",), {"expected": "4"})],
}


@pytest.fixture(scope="module")
def models() -> Models:
    target = tiny_target()
    target.tokenizer = WordTokenizer()  # type: ignore[assignment]
    return Models(target, tiny_head(target))


def runner(models: Models, folder: Path, config: EvalConfig = CONFIG) -> Runner:
    return Runner(config, models, RunDirectory(folder, identity(config)))


def run(models: Models, folder: Path, config: EvalConfig = CONFIG, progress=lambda row: None) -> dict[Key, AnswerRow]:
    return runner(models, folder, config).run(plan(config, QUESTIONS), progress)


def texts(rows: dict[Key, AnswerRow]) -> dict[Key, tuple]:
    """What does not depend on the clock."""
    return {key: (row.generation.tokens, row.generation.accepted, row.draw_seed) for key, row in rows.items()}


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory) -> dict[Key, AnswerRow]:
    return run(models, tmp_path_factory.mktemp("whole"))


def test_there_is_a_row_for_everything_asked(whole):
    turns_and_seeds = (2 + 2 + 1) * (1 + 2)  # turns of all questions; one seed at temperature 0, two above
    assert len(whole) == turns_and_seeds * len(ARM_NAMES)
    assert all(len(row.generation.tokens) == 8 and row.capped for row in whole.values())
    assert {row.correct for key, row in whole.items() if key.task == "gsm8k"} <= {True, False}
    assert {row.correct for key, row in whole.items() if key.task == "mt_bench"} == {None}


def test_greedy_arms_agree_and_the_second_turn_continues_the_arms_own_first_answer(whole):
    tokenizer = WordTokenizer()
    for key, row in whole.items():
        if key.temperature == 0:
            assert row.generation.tokens == whole[key._replace(arm="autoregressive")].generation.tokens, key
        if key.turn == 1:
            first = whole[key._replace(turn=0)]
            question = next(q for q in QUESTIONS["mt_bench"] if q.id == key.question)
            messages = ["<user> " + question.turns[0], "<assistant> " + first.text, "<user> " + question.turns[1]]
            assert list(row.prompt_tokens) == tokenizer(" ".join(messages), add_special_tokens=False)["input_ids"]


def test_seeds_follow_from_run_question_turn_and_repetition_alone(whole):
    assert {row.draw_seed for row in whole.values()} == {
        draw_seed(0, key.seed, key.task, key.question, key.turn) for key in whole
    }
    assert len({draw_seed(r, s, "t", q, turn) for r in (0, 1) for s in (0, 1) for q in "ab" for turn in (0, 1)}) == 16
    assert draw_seed(0, 1, "t", "a", 0) == draw_seed(0, 1, "t", "a", 0)


def test_arms_of_a_question_follow_each_other_and_take_turns_at_being_first():
    order = plan(CONFIG, QUESTIONS)
    blocks = [order[i : i + len(ARM_NAMES)] for i in range(0, len(order), len(ARM_NAMES))]
    assert all({c.arm for c in block} == set(ARM_NAMES) for block in blocks)
    assert all(len({(c.task.name, c.question.id, c.temperature, c.seed) for c in block}) == 1 for block in blocks)
    assert len({block[0].arm for block in blocks}) > 2
    assert [c.task.name for c in order[:: 3 * len(ARM_NAMES)]] == ["mt_bench", "gsm8k", "mt_bench"]


class _Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 20])
def test_a_killed_run_goes_on_where_it_stopped(models, whole, tmp_path, after):
    """Killed in the middle of a line; the finished rows stay as they were, to the byte."""
    seen = []

    def kill(row):
        seen.append(row)
        if len(seen) == after:
            raise _Killed

    with pytest.raises(_Killed):
        run(models, tmp_path, progress=kill)
    kept = (tmp_path / ROWS).read_bytes()
    (tmp_path / ROWS).write_bytes(kept + b'{"task": "gsm8k", "ques')
    assert texts(run(models, tmp_path)) == texts(whole)
    assert (tmp_path / ROWS).read_bytes().startswith(kept)
    assert len((tmp_path / ROWS).read_text().splitlines()) == len(whole)


def test_a_complete_run_plays_nothing(models, tmp_path, monkeypatch):
    config = replace(CONFIG, tasks=("gsm8k",), arms=("autoregressive",))
    run(models, tmp_path, config)
    monkeypatch.setattr(Runner, "keep", lambda *_: pytest.fail("played again"))
    monkeypatch.setattr(Runner, "_arm", lambda *_: pytest.fail("warmed up for nothing"))
    assert len(run(models, tmp_path, config)) == 3


def test_more_may_be_asked_for_later_and_less_reports_less(models, tmp_path):
    small = replace(CONFIG, tasks=("gsm8k",), arms=("autoregressive",), seeds=1)
    assert len(run(models, tmp_path, small)) == 2
    assert len(run(models, tmp_path, replace(small, seeds=3, arms=("autoregressive", "hsd")))) == 8
    assert len(run(models, tmp_path, small)) == 2


GREEDY = replace(CONFIG, tasks=("gsm8k",), arms=("autoregressive",), temperatures=(0.0,))


@pytest.mark.parametrize(
    "edited", [Question("g0", ("w9",), {"expected": "4"}), Question("g0", ("w1 w2 w3",), {"expected": "5"})]
)
def test_an_edited_question_is_asked_again(models, tmp_path, edited):
    """With the same output directory, the answer to the old question was reported for the new one."""
    kept = Question("g1", ("w5 w6",), {"expected": "4"})
    played: list[str] = []

    def rows_of(question: Question) -> dict[Key, AnswerRow]:
        trials = plan(GREEDY, {"gsm8k": [question, kept]})
        before = len(RunDirectory(tmp_path, identity(GREEDY)).rows())
        rows = runner(models, tmp_path, GREEDY).run(trials, lambda row: None)
        lines = len((tmp_path / ROWS).read_text().splitlines())
        played.append(f"{lines - before}")
        return rows

    (old,) = (row for row in rows_of(QUESTIONS["gsm8k"][0]).values() if row.key.question == "g0")
    (new,) = (row for row in rows_of(edited).values() if row.key.question == "g0")
    assert new.question == edited.digest != old.question
    assert (new.prompt_tokens == old.prompt_tokens) == (edited.turns == QUESTIONS["gsm8k"][0].turns)
    (again,) = (row for row in rows_of(edited).values() if row.key.question == "g0")
    assert again == new and played == ["2", "1", "1"]


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"task": "gsm8k"}', "null", "{oops", "\udc80"])
def test_a_damaged_row_is_named_with_its_line(models, tmp_path, line):
    run(models, tmp_path, GREEDY)
    with (tmp_path / ROWS).open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(ValueError, match=rf"{ROWS} is damaged at line 2 .*remove the line, or restore the file"):
        run(models, tmp_path, GREEDY)


@pytest.mark.parametrize("content", ["", "{", "\0\0", "[]", "3", "null"])
def test_a_damaged_description_of_the_run_is_named(models, tmp_path, content):
    run(models, tmp_path, GREEDY)
    (tmp_path / RUN).write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        run(models, tmp_path, GREEDY)


@pytest.mark.parametrize("change", [{"max_new_tokens": 9}, {"tree": "chain"}, {"seed": 7}])
def test_another_configuration_in_the_same_directory_is_refused(models, tmp_path, change):
    run(models, tmp_path, replace(CONFIG, tasks=("gsm8k",), arms=("autoregressive",)))
    (name,) = change
    with pytest.raises(ValueError, match=rf"{name} was .*, is .*: choose another --output"):
        runner(models, tmp_path, replace(CONFIG, **change))


def test_an_arm_that_lacks_its_model_says_which_flag_gives_it(models, tmp_path):
    for arm, flag in (("hsd", "--head"), ("hf_assisted", "--assistant")):
        config = replace(CONFIG, arms=(arm,))
        with pytest.raises(ValueError, match=flag):
            run(Models(models.target), tmp_path, config)


def test_rows_say_what_they_depend_on(whole):
    row = next(row for row in whole.values() if row.key.arm == "hsd").to_json()
    assert {"torch", "transformers"} <= row["versions"].keys() and len(row["config"]) == 12
    assert {"prefill", "draft", "target", "verify", "rest", "decode", "total"} == row["seconds"].keys()
    assert all(len(shape) == 3 and shape[0] >= 1 for shape in row["shapes"]) and len(row["shapes"]) == row["rounds"]
    assert row["seconds"]["total"] == pytest.approx(row["seconds"]["prefill"] + row["seconds"]["decode"])
    json.dumps(row, allow_nan=False)


def test_running_in_circles_is_noticed_and_ordinary_text_is_not():
    assert is_degenerate([]) and is_degenerate(list(range(40)) + [1, 2, 3] * 30)
    assert not is_degenerate(list(range(60))) and not is_degenerate([1, 2] * 10)


def test_tasks_without_a_score_stay_without_one():
    assert TASKS["mt_bench"].score is None


BATCHED = replace(CONFIG, arms=("autoregressive", "eagle3", "hsd", "chain:depth=2+tokenwise"), batch=3)


def test_a_batch_writes_the_same_rows_and_goes_on_where_it_was_killed(models, whole, tmp_path):
    """Every answer is that of its own, in float32; a finished one is never decoded again."""
    heard: list[AnswerRow] = []

    def stop(row: AnswerRow) -> None:
        heard.append(row)
        if len(heard) == 20:
            raise KeyboardInterrupt

    one = BatchRunner(BATCHED, models, RunDirectory(tmp_path, identity(BATCHED)))
    with pytest.raises(KeyboardInterrupt):
        one.run(plan(BATCHED, QUESTIONS), stop)
    before = (tmp_path / ROWS).read_text()
    rows = one.run(plan(BATCHED, QUESTIONS), lambda row: None)
    assert texts(rows) == {key: value for key, value in texts(whole).items() if key.arm in BATCHED.arms}
    assert (tmp_path / ROWS).read_text().startswith(before) and len(one.directory.rows()) == len(rows)
    assert {row.batch for row in rows.values()} == {3} and {row.batch for row in whole.values()} == {1}
    assert all(row.generation.seconds.decode > 0 and row.generation.seconds.draft is None for row in rows.values())
    assert len((tmp_path / ROWS).read_text().splitlines()) == len(rows), "an answer was decoded twice"


def test_an_arm_that_answers_one_prompt_at_a_time_is_refused_in_a_batch():
    with pytest.raises(ValueError, match=r"arm .hf_generate. answers one prompt at a time.*--batch 1"):
        check_arms(replace(CONFIG, batch=2))

"""From made-up rows to the numbers that anyone can compute by hand."""

import json
import random
from collections.abc import Iterable

import pytest

from evaluation.eval_config import EvalConfig
from evaluation.report import summary as summary_module
from evaluation.report.summary import FIELDS, MEAN, summarise
from evaluation.rows import AnswerRow, Key
from tests.evaluation.synthetic import synthetic_row, synthetic_run

CONFIG = EvalConfig(tasks=("gsm8k",), arms=("autoregressive", "hf_generate", "eagle3", "hsd"), temperatures=(1.0,))


def summarised(rows: Iterable[AnswerRow], config: EvalConfig = CONFIG) -> dict[tuple, dict]:
    results = summarise({row.key: row for row in rows}, config)["results"]
    return {(r["task"], r["arm"], r["temperature"]): r for r in results}


def plain_and_drafted(**changes) -> list[AnswerRow]:
    """Two questions of six tokens after the first: plain decoding takes 2 s and 4 s, drafting 1 s and 2 s."""
    rows = []
    for question, seconds in (("a", 1.0), ("b", 2.0)):
        rows.append(synthetic_row([0] * 6, 2 * seconds, question=question, arm="autoregressive"))
        rows.append(synthetic_row([2, 1, 0], seconds, question=question, arm="hsd", **changes))
    return rows


def test_the_numbers_of_two_known_questions():
    row = summarised(plain_and_drafted(exact={"hsd": 2.7}, correct=True))["gsm8k", "hsd", 1.0]
    assert (row["num_questions"], row["num_seeds"], row["rounds"], row["tokens"]) == (2, 1, 6, 14)
    assert row["tau"] == row["tau_per_question"] == 1.0 and row["block_efficiency"] == 2.0
    assert row["tau_exact"] == pytest.approx(0.9) and row["tau_bound"] is None
    assert row["tokens_per_s"] == pytest.approx(12 / 3)
    assert (row["speedup"], row["speedup_low"], row["speedup_high"]) == pytest.approx((2, 2, 2))
    assert row["accuracy"] == 1.0 and row["survival"] == pytest.approx([2 / 3, 1 / 3])
    assert row["acceptance_by_depth"] == pytest.approx([2 / 3, 1 / 2])


def test_the_prefill_counts_in_total_time_only():
    row = summarised(plain_and_drafted())["gsm8k", "hsd", 1.0]
    assert row["tokens_per_s_total"] == pytest.approx(14 / (3 + 2 * 0.1))
    assert row["speedup_total"] == pytest.approx((14 / 3.2) / (14 / 6.2))


def test_every_promised_field_is_in_every_row_and_the_whole_is_json():
    rows = synthetic_run(num_questions=4)
    config = EvalConfig(arms=CONFIG.arms, resamples=50)
    whole = summarise(rows, config)
    assert len(whole["results"]) == 3 * 4 * 2 + 4 * 2
    assert all(set(FIELDS) <= row.keys() for row in whole["results"])
    json.loads(json.dumps(whole, allow_nan=False))


def test_micro_and_per_question_means_differ_where_lengths_do():
    rows = [synthetic_row([4], question="a"), synthetic_row([0] * 9, question="b")]
    row = summarised(rows)["gsm8k", "hsd", 1.0]
    assert row["tau"] == pytest.approx(0.4) and row["tau_per_question"] == 2.0


def test_speed_is_compared_on_the_answers_both_arms_gave():
    """A run that was cut short: the baseline has not seen the slow question. Compared over all answers the drafting arm
    would look slower than it is."""
    rows = [
        synthetic_row([0] * 6, 2.0, question="a", arm="autoregressive"),
        synthetic_row([2, 1, 0], 1.0, question="a"),
        synthetic_row([2, 1, 0], 50.0, question="slow"),
    ]
    assert summarised(rows)["gsm8k", "hsd", 1.0]["speedup"] == pytest.approx(2.0)


def test_without_a_baseline_there_is_no_speedup():
    assert summarised([synthetic_row([1])])["gsm8k", "hsd", 1.0]["speedup"] is None


def test_the_mean_of_tasks_is_the_plain_mean():
    config = EvalConfig(tasks=("gsm8k", "mt_bench"), arms=("hsd",), temperatures=(1.0,))
    rows = [synthetic_row([3]), synthetic_row([0, 0], task="mt_bench")]
    assert summarised(rows, config)[MEAN, "hsd", 1.0]["tau"] == pytest.approx(1.5)


def test_an_expectation_that_some_rows_lack_is_not_reported():
    rows = [
        synthetic_row([1, 2], question="a", exact={"hsd": 2.0, "walk": 2.0}),
        synthetic_row([1, 2], question="b", exact={"hsd": 3.0}),
    ]
    row = summarised(rows)["gsm8k", "hsd", 1.0]
    assert row["tau_exact_by_verifier"] == {"hsd": pytest.approx(5 / 4)}


def test_greedy_rows_report_the_greedy_expectation():
    rows = [synthetic_row([2, 1], temperature=0.0, exact={"greedy": 3.0}, bound=3.0)]
    row = summarised(rows, EvalConfig(tasks=("gsm8k",), arms=("hsd",), temperatures=(0.0,)))["gsm8k", "hsd", 0.0]
    assert row["tau"] == row["tau_exact"] == row["tau_bound"] == 1.5


def test_flagged_answers_are_counted_and_left_out_of_both_arms():
    rows = plain_and_drafted()
    rows += [
        synthetic_row([0] * 6, 1.0, question="c", arm="autoregressive"),
        synthetic_row([5, 5], 9.0, question="c", degenerate=True),
        synthetic_row([0] * 6, 1.0, question="d", arm="autoregressive", finish="length"),
        synthetic_row([0, 0], 9.0, question="d"),
    ]
    row = summarised(rows)["gsm8k", "hsd", 1.0]
    assert (row["degenerate"], row["capped"], row["without_flagged"]["num_answers"]) == (1, 0, 3)
    assert row["without_flagged"]["tau"] == pytest.approx(6 / 8)  # without c
    assert row["without_flagged"]["speedup"] == pytest.approx(2.0)  # without c, and without d for its baseline


def test_a_machine_that_was_busy_is_noticed():
    rows = [synthetic_row([1, 1], seconds, question=f"q{i}") for i, seconds in enumerate((1.0, 1.1, 0.9, 40.0))]
    assert summarised(rows)["gsm8k", "hsd", 1.0]["stalled"] == 1
    assert summarised(rows[:3])["gsm8k", "hsd", 1.0]["stalled"] == 0


def test_differences_between_arms_are_paired():
    """One arm accepts exactly one token more a round on every question, however much questions differ."""
    rows = [
        synthetic_row([base + extra] * 5, question=f"q{base}", arm=arm)
        for base in range(6)
        for arm, extra in (("eagle3", 0), ("hsd", 1))
    ]
    (found,) = summarise({row.key: row for row in rows}, CONFIG)["comparisons"]
    assert (found["arm"], found["against"]) == ("hsd", "eagle3")
    spread = [found[name] for name in ("tau_difference", "tau_difference_low", "tau_difference_high")]
    assert spread == pytest.approx([1, 1, 1])


def test_the_survival_self_check_catches_rounds_counted_in_two_ways(monkeypatch):
    monkeypatch.setattr(summary_module, "survival", lambda accepted: [0.5])
    with pytest.raises(ValueError, match="counted in two ways"):
        summarised([synthetic_row([2, 2])])


def test_rows_survive_their_file():
    for row in synthetic_run(num_questions=1).values():
        written = json.loads(json.dumps(row.to_json()))
        assert AnswerRow.from_json(written) == row
        assert written["rounds"] == len(written["accepted"]) and isinstance(row.key, Key)


def seconds_of(tokens: int, arm: str) -> float:
    """A drafted token costs half of a plain one, whatever the answer."""
    return 0.1 * tokens * (1.0 if arm == "autoregressive" else 0.5)


def paired_run(identical: bool, num_questions: int = 40) -> list[AnswerRow]:
    """A plain arm and one that drafts, lengths drawn from one law; starting an answer costs time, so speed depends on
    its length. With `identical` both give one answer."""
    chance, rows = random.Random(3), []
    for question in range(num_questions):
        lengths = [chance.choice((5, 20, 80)) for _ in range(2)]
        lengths[1] = lengths[0] if identical else lengths[1]
        for arm, length in zip(("autoregressive", "coupled+coupled"), lengths, strict=True):
            took_s = (1.0 + seconds_of(length, arm)) * chance.uniform(0.98, 1.02)
            rows.append(synthetic_row([0] * length, took_s, question=f"q{question}", arm=arm, coupled=True))
    return rows


def test_identical_answers_make_the_interval_of_a_speedup_narrow():
    """Two draws of one law differ in what they say and how long it is, and so in time: that is noise of a speed-up
    which equal answers do not have. Over other seeds the quotient of the widths stays below 0.5."""
    config = EvalConfig(tasks=("gsm8k",), arms=("autoregressive", "coupled+coupled"), temperatures=(1.0,))
    same, apart = (
        summarised(paired_run(identical), config)["gsm8k", "coupled+coupled", 1.0] for identical in (True, False)
    )
    assert (same["speedup_identical"], same["speedup_answers"]) == (40, 40)
    assert apart["speedup_identical"] < 40 == apart["speedup_answers"]
    width = [row["speedup_high"] - row["speedup_low"] for row in (same, apart)]
    assert 0 < width[0] < width[1] / 2


def test_answers_to_other_prompts_are_not_identical():
    """The second turn of another conversation may happen to say the same."""
    rows = [
        synthetic_row([0, 0], arm="autoregressive", question="a"),
        synthetic_row([0, 0], question="a"),
        synthetic_row([0, 0], arm="autoregressive", question="b", prompt=(1, 2)),
        synthetic_row([0, 0], question="b", prompt=(1, 3)),
        synthetic_row([0, 0], question="c"),
    ]
    row = summarised(rows)["gsm8k", "hsd", 1.0]
    assert (row["speedup_identical"], row["speedup_answers"]) == (1, 2)


def test_rows_of_older_versions_are_read_as_other_draws():
    written = synthetic_row([1]).to_json()
    del written["coupled"]
    assert AnswerRow.from_json(json.loads(json.dumps(written))).generation.coupled is False
    assert AnswerRow.from_json(synthetic_row([1], coupled=True).to_json()).generation.coupled is True

"""Coupled arms: the baseline's own answers at any temperature, counted with their gaps, and without expectations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eagle.drafters.beside import LookupBeside
from eagle.judging import ChosenTokens
from eagle.noise import NoiseField, answer_key
from eagle.sampling import seeded
from evaluation import evaluate as evaluate_module
from evaluation.arms import Models, Request, find_arm
from evaluation.equality import compared, measure_differences, summarise_equality
from evaluation.eval_config import EvalConfig
from evaluation.evaluate import evaluate
from evaluation.rows import ROWS, AnswerRow
from evaluation.runner import Runner
from evaluation.selfcheck.check import Check
from evaluation.tasks import Question
from tests.evaluation.synthetic import synthetic_row
from tests.evaluation.words import WordTokenizer
from tests.tiny import random_ids, tiny_head, tiny_target

ARMS = ("autoregressive", "coupled+coupled", "chain:depth=2+coupled", "eagle:num_nodes=8+hsd")
QUESTIONS = {"mt_bench": [Question(f"m{i}", (f"w{i} w5", "w8 w9")) for i in range(2)]}


@pytest.fixture
def models() -> Models:
    target = tiny_target()
    target.tokenizer = WordTokenizer()  # type: ignore[assignment]
    return Models(target, tiny_head(target))


@pytest.fixture
def config(tmp_path, monkeypatch) -> EvalConfig:
    monkeypatch.setattr(evaluate_module, "load_all", lambda config: QUESTIONS)
    return EvalConfig(
        output=str(tmp_path / "out"), tasks=("mt_bench",), arms=ARMS, temperatures=(0.0, 0.6, 1.0), seeds=2,
        max_new_tokens=8, resamples=50, dtype="float32",
    )  # fmt: skip


def answered(models, config, arm: str, temperature: float = 1.0):
    return find_arm(arm, config)(models, config, Request(random_ids(9), temperature, 20, seed=5))


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_a_coupled_arm_gives_the_baselines_very_answer(models, config, temperature):
    plain = answered(models, config, "autoregressive", temperature)
    for arm in ARMS[1:3]:
        found = answered(models, config, arm, temperature)
        assert found.tokens == plain.tokens
        assert found.coupled == plain.coupled == (temperature > 0)
    assert sum(answered(models, config, "coupled+coupled").accepted) > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_arm_with_a_lookup_gives_the_same_answer(models, config, temperature, monkeypatch):
    suggested, scaffold = [], LookupBeside.scaffold
    monkeypatch.setattr(LookupBeside, "scaffold", lambda one: suggested.append(scaffold(one)) or suggested[-1])
    plain = answered(models, config, "autoregressive", temperature)
    assert answered(models, config, "eagle+coupled+lookup", temperature).tokens == plain.tokens
    assert suggested, "the lookup was asked"
    suggested.clear()
    assert answered(models, config, "eagle+coupled", temperature).tokens == plain.tokens and not suggested


@pytest.mark.parametrize("arm", ["coupled+coupled", "eagle+coupled", "chain+coupled"])
def test_trees_that_saw_the_noise_have_no_expectation_and_no_bound(models, config, arm):
    """What another verifier accepts of them on average is an average over noise that they have seen."""
    found = answered(models, config, arm)
    assert (found.exact, found.bound) == ({}, None) and len(found.shapes) == found.rounds
    assert answered(models, config, "eagle+walk").exact and not answered(models, config, "eagle+walk").coupled
    assert set(answered(models, config, arm, 0.0).exact) == {"greedy"}  # no noise there, and one verifier


def test_a_run_shows_that_texts_are_equal_and_a_second_one_plays_nothing(models, config, monkeypatch):
    monkeypatch.setattr(evaluate_module, "check_lossless", lambda spec, *_: [Check(spec, 1.0, "equality", True, "")])
    console = Console(record=True, width=80)
    summary = evaluate(replace(config, verify_lossless=True), console, models)
    equality = {(row["arm"], row["temperature"]): row for row in summary["equality"]}
    coupled = [row for (arm, _), row in equality.items() if arm.endswith("+coupled")]
    assert len(coupled) == 2 * 3 and all(row["other_draws"] == 0 for row in coupled)
    assert all(row["equal"] == row["compared"] == (4 if row["temperature"] == 0 else 8) for row in coupled)
    assert [t for arm, t in equality if arm.endswith("+hsd")] == [0.0]
    identical = {(r["arm"], r["temperature"]): r.get("speedup_identical") for r in summary["results"]}
    assert identical["coupled+coupled", 1.0] == 8 and identical["autoregressive", 1.0] is None
    pairs = {(r["arm"], r["against"], r["temperature"]): r["num_identical"] for r in summary["comparisons"]}
    assert pairs["chain:depth=2+coupled", "coupled+coupled", 1.0] == 8
    assert {check["drafting"] for check in summary["self_check"]} == set(ARMS[1:])
    page = (Path(config.output) / "report.html").read_text()
    assert "<td>8 of 8</td>" in page and "identical answers" in page and "stand beside" not in console.export_text()
    monkeypatch.setattr(Runner, "keep", lambda *_: pytest.fail("played again"))
    assert evaluate(config, Console(quiet=True), models)["equality"] == summary["equality"]


def test_plain_answers_of_an_older_version_stay_and_are_not_compared(models, config):
    """They were drawn from the same law by other numbers: beside coupled answers they would look like a fault."""
    plain = replace(config, arms=ARMS[:1])
    evaluate(plain, Console(quiet=True), models)
    path = Path(config.output) / ROWS
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        del row["coupled"]
        row["tokens"] = [*row["tokens"][:-1], (row["tokens"][-1] + 1) % 97]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in old))
    console = Console(record=True, width=200)
    summary = evaluate(replace(config, arms=ARMS[:2], temperatures=(1.0,)), console, models)
    (row,) = summary["equality"]
    assert (row["compared"], row["equal"], row["other_draws"], row["largest_gap"]) == (0, 0, 8, None)
    assert "8 coupled answers stand beside plain ones of an older version" in console.export_text()
    assert {r["arm"] for r in summary["results"]} == set(ARMS[:2])


def drawn(arm: str, tokens, prompt, coupled: bool = True, temperature: float = 0.7) -> AnswerRow:
    row = synthetic_row([0] * 2, arm=arm, temperature=temperature, tokens=tokens, prompt=prompt, coupled=coupled)
    return replace(row, draw_seed=11)


def test_the_gap_above_temperature_zero_is_of_the_perturbed_logits(target, tmp_path):
    prompt = random_ids(6)
    rows = {r.key: r for r in (drawn("autoregressive", (5, 6, 7), prompt), drawn("coupled+coupled", (5, 8, 7), prompt))}
    (found,) = measure_differences(rows, target, tmp_path)
    logits = target.prefill(torch.tensor([*prompt, 5]), target.new_cache()).logits[0]
    noise = NoiseField(answer_key(seeded(11))).at(7, torch.tensor([6, 8]))  # the token behind seven others
    expected = float(logits[6] - logits[8]) + 0.7 * float(noise[0] - noise[1])
    assert (found.position, found.expected, found.found) == (1, 6, 8)
    assert found.gap == pytest.approx(expected, abs=1e-5)
    (row,) = summarise_equality(rows, [found])
    assert (row["temperature"], row["compared"], row["equal"], row["first_difference"]) == (0.7, 1, 0, 1)
    assert row["largest_gap"] == row["median_gap"] == abs(found.gap)
    assert measure_differences(rows, None, tmp_path) == [found]  # type: ignore[arg-type]  # read, not computed


@pytest.mark.parametrize(
    ("row", "base", "count"),
    [(True, True, (1, 0)), (True, False, (0, 1)), (False, True, (0, 0)), (False, False, (0, 0))],
)
def test_only_answers_of_one_field_are_compared(row, base, count):
    """Above temperature 0 `hsd` is another draw; at temperature 0 nothing is drawn."""
    pair = [drawn("autoregressive", (5, 6, 7), (1, 2), base), drawn("hsd", (5, 6, 7), (1, 2), row)]
    rows = {r.key: r for r in pair}
    summary = summarise_equality(rows, [])
    assert (len(list(compared(rows))), sum(r["other_draws"] for r in summary)) == count
    greedy = [replace(r, key=r.key._replace(temperature=0.0)) for r in pair]
    assert len(list(compared({r.key: r for r in greedy}))) == 1


def test_a_decoder_that_breaks_the_field_is_seen_in_the_report(models, config, monkeypatch):
    verdict = ChosenTokens.verdict
    monkeypatch.setattr(ChosenTokens, "verdict", lambda self, tree, logits, *_: verdict(self, tree, logits, 1))
    summary = evaluate(replace(config, arms=ARMS[:2], temperatures=(1.0,)), Console(quiet=True), models)
    (row,) = summary["equality"]
    assert row["equal"] < row["compared"] and row["largest_gap"] > 0.1

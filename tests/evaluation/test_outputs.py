"""What a run leaves behind: differences with their gaps, answers for FastChat, plots, report and table."""

import base64
import importlib
import json
import re
import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from eagle import planner
from eagle.files import only_writer
from eagle.sampling import Sampling
from eagle.trees import Acceptance, CostModel, parse_policy
from eagle.trees.automatic import partly_sampled, placed
from eagle.trees.fitted import Expected, HeadFit
from evaluation import evaluate as evaluate_module
from evaluation.arms import Models
from evaluation.equality import first_difference, measure_differences, summarise_equality
from evaluation.eval_config import EvalConfig
from evaluation.evaluate import evaluate
from evaluation.report.charts import colours, draw_plots
from evaluation.report.fastchat import FOLDER, write_answers
from evaluation.report.summary import FIELDS, summarise
from evaluation.runner import Runner
from evaluation.scoring import sandbox
from evaluation.tasks import Question
from tests.evaluation.synthetic import synthetic_row
from tests.evaluation.words import WordTokenizer
from tests.tiny import random_ids, tiny_head, tiny_target

PNG = b"\x89PNG\r\n\x1a\n"


def greedy(arm, tokens, prompt=(1, 2), question="a"):
    row = synthetic_row([0] * (len(tokens) - 1), arm=arm, temperature=0.0, tokens=tokens, prompt=prompt)
    key = row.key._replace(question=question)
    return key, type(row)(**{**vars(row), "key": key})


def test_a_difference_has_its_place_and_the_gap_of_the_plain_targets_logits(target, tmp_path):
    prompt = random_ids(6)
    rows = dict([greedy("autoregressive", (5, 6, 7), prompt), greedy("hsd", (5, 8, 7), prompt)])
    (found,) = measure_differences(rows, target, tmp_path)
    logits = target.prefill(torch.tensor([*prompt, 5]), target.new_cache()).logits[0]
    assert (found.position, found.expected, found.found) == (1, 6, 8)
    assert found.gap == pytest.approx(float(logits[6] - logits[8]))
    (row,) = summarise_equality(rows, [found])
    assert (row["compared"], row["equal"], row["largest_gap"]) == (1, 0, abs(found.gap))
    assert measure_differences(rows, None, tmp_path) == [found]  # read again, not computed again


def test_equal_answers_are_equal_and_answers_to_other_prompts_are_not_compared(target, tmp_path):
    """In a second turn the prompt holds the arm's own first answer."""
    rows = dict(
        [
            greedy("autoregressive", (5, 6)),
            greedy("eagle3", (5, 6)),
            greedy("autoregressive", (5, 6), (1, 2), "b"),
            greedy("eagle3", (7, 7), (1, 3), "b"),
        ]
    )
    assert measure_differences(rows, target, tmp_path) == []
    (row,) = summarise_equality(rows, [])
    assert (row["compared"], row["equal"]) == (1, 1)


def test_a_shorter_answer_differs_where_it_ends():
    (_, base), (_, row) = greedy("autoregressive", (5, 6, 7)), greedy("hsd", (5, 6))
    found = first_difference(row, base)
    assert (found.position, found.expected, found.found) == (2, 7, None)


@pytest.fixture
def load_model_answers(monkeypatch):
    """FastChat's own reader; its module also imports the judges' clients, which reading does not need."""
    for client in ("openai", "anthropic"):
        monkeypatch.setitem(sys.modules, client, types.ModuleType(client))
    return importlib.import_module("fastchat.llm_judge.common").load_model_answers


def test_fastchat_reads_the_answers(tmp_path, load_model_answers):
    rows = [
        synthetic_row([1], task="mt_bench", question="81", turn=turn, seed=seed, text=f"turn {turn} seed {seed}")
        for turn in (0, 1)
        for seed in (0, 1)
    ]
    rows.append(synthetic_row([1], task="mt_bench", question="82", text="only one turn yet"))
    rows.append(synthetic_row([1], task="gsm8k", question="9"))
    write_answers({row.key: row for row in rows}, tmp_path, "org/model")
    ((model, answers),) = load_model_answers(str(tmp_path / FOLDER)).items()
    assert model == "org-model-hsd-t1" and list(answers) == [81]
    assert [choice["turns"] for choice in answers[81]["choices"]] == [
        ["turn 0 seed 0", "turn 1 seed 0"],
        ["turn 0 seed 1", "turn 1 seed 1"],
    ]
    assert answers[81]["model_id"] == model and {"answer_id", "tstamp"} <= answers[81].keys()


def test_plots_without_data_are_left_out(tmp_path):
    lonely = summarise({r.key: r for r in [synthetic_row([0, 0])]}, EvalConfig(tasks=("gsm8k",)))
    assert list(draw_plots(lonely, tmp_path)) == ["shares"]


def test_every_arm_has_a_colour_of_its_own():
    arms = ["autoregressive", "hf_generate", "eagle3", "hsd", "a+walk", "b+walk", "hf_assisted"]
    assert len(set(colours(arms).values())) == len(arms)


@pytest.fixture
def tiny_models() -> Models:
    target = tiny_target()
    target.tokenizer = WordTokenizer()  # type: ignore[assignment]
    return Models(target, tiny_head(target))


COSTS = CostModel((1, 64), (20.0, 40.0), 2.0)


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch):
    """What pays here is a matter of the machine; the tests decide."""
    monkeypatch.setattr(planner, "load_costs", lambda *_: COSTS)


def test_trees_without_a_budget_get_the_one_that_pays_here(tiny_models):
    rounds = (
        Expected(0.0, "eagle", (4, 6), (1.0, 1.01), (1.0, 1.01), (1.0, 5.0)),
        Expected(1.0, "mixed", (6,), (2.0,), (1.8,), (1.0,)),
    )
    tiny_models.head.fit = HeadFit(Acceptance(), (*rounds, replace(rounds[0], temperature=1.0)), "")
    policy = tiny_models.drafting("auto+hsd").policy
    assert [policy.choose(Sampling(t)) for t in (0.0, 1.0)] == [placed(4), partly_sampled(6)]
    assert tiny_models.drafting("eagle+walk").policy == placed(4)
    assert tiny_models.drafting("budgeted+hsd").policy.cost == COSTS
    for named in ("chain:depth=2", "eagle:num_nodes=9"):
        assert tiny_models.drafting(f"{named}+hsd").policy == parse_policy(named)
    with pytest.raises(ValueError, match="needs a draft head"):
        replace(tiny_models, head=None).drafting("auto+hsd")


def test_one_call_from_a_configuration_to_a_report(tiny_models, tmp_path, monkeypatch):
    questions = {"gsm8k": [Question(f"g{i}", (f"w{i} w5",), {"expected": "4"}) for i in range(2)]}
    monkeypatch.setattr(evaluate_module, "load_all", lambda config: questions)
    config = EvalConfig(
        output=str(tmp_path), tasks=("gsm8k",), arms=("autoregressive", "hf_generate", "eagle3", "hsd"),
        seeds=2, max_new_tokens=12, resamples=50,
    )  # fmt: skip
    console = Console(record=True, width=80)
    evaluate(config, console, tiny_models)
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "keep", lambda *_: pytest.fail("a second call plays nothing again"))
        patched.setattr(evaluate_module, "write_report", lambda *_: "the same report")
        evaluate(config, Console(quiet=True), tiny_models)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["results"]) == 8 and all(set(FIELDS) <= row.keys() for row in summary["results"])
    assert all(row["equal"] == row["compared"] == 2 for row in summary["equality"])
    assert {"machine", "dtype", "threads", "command", "torch", "head_weights"} <= summary["conditions"].keys()
    page = (tmp_path / "report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == len(list((tmp_path / "plots").glob("*.png"))) == 4
    assert all(base64.b64decode(picture).startswith(PNG) for picture in pictures)
    assert "{" not in re.sub(r"<(style|pre)>.*?</\1>", "", page, flags=re.DOTALL)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80 and "gsm8k T=1" in shown and "…" not in shown


def small_run(output, monkeypatch, arms=("autoregressive", "hsd"), **options) -> EvalConfig:
    questions = {"gsm8k": [Question("g", ("w1 w2",), {"expected": "4"})]}
    monkeypatch.setattr(evaluate_module, "load_all", lambda config: questions)
    return EvalConfig(
        output=str(output), tasks=("gsm8k",), arms=arms, temperatures=(0.0,), max_new_tokens=4, resamples=10, **options
    )


def test_a_run_goes_on_where_its_directory_and_its_models_moved(tiny_models, tmp_path, monkeypatch):
    """Named relatively, or from another place, the same head was another option, and the run was refused."""
    evaluate(small_run(tmp_path / "a", monkeypatch, head="old/head", target="here"), Console(quiet=True), tiny_models)
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Runner, "keep", lambda *_: pytest.fail("played again"))
    config = small_run("b", monkeypatch, head="head", target=None)
    evaluate(config, Console(quiet=True), tiny_models)


def test_another_target_in_the_same_directory_is_refused(tiny_models, tmp_path, monkeypatch):
    """The path may be the same while the weights were trained on."""
    config = small_run(tmp_path, monkeypatch, arms=("autoregressive",))
    evaluate(config, Console(quiet=True), Models(tiny_models.target))
    other = tiny_target(seed=1)
    other.tokenizer = tiny_models.target.tokenizer
    with pytest.raises(ValueError, match="target_weights was"):
        evaluate(config, Console(quiet=True), Models(other))


def test_a_second_run_on_one_output_is_told_of_the_first(tiny_models, tmp_path, monkeypatch):
    """Two processes on one output doubled every row."""
    config = small_run(tmp_path, monkeypatch)
    with only_writer(tmp_path), pytest.raises(ValueError, match=r"is being written by process .*another --output"):
        evaluate(config, Console(quiet=True), tiny_models)


def test_what_killed_runs_left_is_removed(tiny_models, tmp_path, monkeypatch):
    process = subprocess.Popen(["true"])
    process.wait()
    config = small_run(tmp_path, monkeypatch)
    left = [tmp_path / f".summary.json.{process.pid}.tmp", tmp_path / "plots" / f".tau.png.{process.pid}.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    evaluate(config, Console(quiet=True), tiny_models)
    assert not any(path.exists() for path in left) and list(tmp_path.rglob("*.tmp")) == []


def test_programs_are_refused_before_anything_is_loaded_and_the_doubt_is_said_before_they_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "refusal", lambda: "refused for a test")
    monkeypatch.setattr(evaluate_module, "load_all", lambda config: {"humaneval": [Question("h", ("w1",))]})
    config = EvalConfig(output=str(tmp_path / "out"), tasks=("humaneval",))
    with pytest.raises(ValueError, match=r"refused for a test.*--unsafe-sandbox"):
        evaluate(config, Console(quiet=True))
    assert not (tmp_path / "out").exists()
    console = Console(record=True, width=200)
    monkeypatch.setattr(evaluate_module, "_evaluate", lambda *_: {"told": console.export_text()})
    assert "a program may get at files" in evaluate(replace(config, unsafe_sandbox=True), console)["told"]


def test_the_gap_of_another_answer_is_not_taken_for_this_one(target, tmp_path):
    """A difference was known by its question alone: after an edit the old gap stood beside the new answer."""
    first = dict([greedy("autoregressive", (5, 6, 7), random_ids(6)), greedy("hsd", (5, 8, 7), random_ids(6))])
    other = random_ids(6, seed=9)
    second = dict([greedy("autoregressive", (5, 6, 7), other), greedy("hsd", (5, 8, 7), other)])
    (old,), (new,) = (measure_differences(rows, target, tmp_path) for rows in (first, second))
    assert old.position == new.position and old.gap != new.gap


@pytest.mark.parametrize("line", ["{}", "3", "{", '{"key": {}}'])
def test_a_damaged_file_of_differences_is_named_with_its_line(target, tmp_path, line):
    (tmp_path / "differences.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"differences\.jsonl is damaged at line 1"):
        measure_differences({}, target, tmp_path)


def test_another_head_in_the_same_directory_is_refused(tiny_models, tmp_path, monkeypatch):
    """The path may be the same while the weights were trained on: rows of two heads must not mix."""
    monkeypatch.setattr(
        evaluate_module, "load_all", lambda config: {"gsm8k": [Question("g", ("w1",), {"expected": "4"})]}
    )
    config = EvalConfig(output=str(tmp_path), tasks=("gsm8k",), arms=("hsd",), temperatures=(0.0,), max_new_tokens=4)
    evaluate(config, Console(quiet=True), tiny_models)
    other = Models(tiny_models.target, tiny_head(tiny_models.target, seed=1))
    with pytest.raises(ValueError, match="head_weights"):
        evaluate(config, Console(quiet=True), other)

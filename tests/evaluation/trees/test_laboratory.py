"""The laboratory on a tiny target: shared reads and scores equal separate ones, runs resume, tables add up."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import hsd_verify
from eagle.chance import Chance
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.masks import ancestor_matrix
from eagle.files import JsonLines
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, TreePolicy, hybrid, sampled
from evaluation.trees import comparison, laboratory
from evaluation.trees.contexts import Context, RecordConfig, check_vocabulary, read_contexts, record_contexts
from evaluation.trees.early_exit import EarlyExit
from evaluation.trees.fit import fit
from evaluation.trees.laboratory import Plan, TreeArm, measure_context, read_arms, read_rows, run
from evaluation.trees.shared import Growing, HeadSource, PathScores, grow_all, tree_paths
from tests.evaluation.words import WordTokenizer
from tests.tiny import random_ids, tiny_head

CONFIGS = Path(__file__).parents[3] / "configs/trees"
WARM = Sampling(1.0)
ARMS = (
    TreeArm("eagle", 8, EagleTree(8, 4, 3)),
    TreeArm("eagle", 16, EagleTree(16, 4, 3)),
    TreeArm("hybrid", 12, hybrid(12)),
)


def context(number: int, temperature: float = 1.0) -> Context:
    return Context(
        f"gsm8k/{number}/{temperature:g}/3", "gsm8k", str(number), temperature, tuple(random_ids(12, number))
    )


@pytest.fixture(scope="module")
def source(target):
    return HeadSource(tiny_head(target), target)


def scored(target, ids):
    cache = target.new_cache()
    features = target.prefill(torch.tensor(ids[:-1]), cache).features
    return features, PathScores(target, cache, ids[-1])


def test_trees_on_shared_reads_equal_trees_grown_alone(target, source):
    ids = context(0).ids
    policies: list[TreePolicy] = [EagleTree(12, 4, 3), hybrid(12), sampled(12)]
    features, scores = scored(target, ids)
    with source.open_round(ids, features, scores) as proposer:
        trees = grow_all(
            [Growing(policy, Chance(WARM, seeded(seed))) for seed, policy in enumerate(policies)], proposer, 5
        )
    for seed, (policy, tree) in enumerate(zip(policies, trees, strict=True)):
        drafter = EagleDrafter(source.head, target.embed, policy)
        drafter.observe(torch.tensor(ids), features)
        alone = drafter.propose(Chance(WARM, seeded(seed)), 5)
        assert tree.token_list == alone.token_list and tree.parent_list == alone.parent_list


def test_shared_scores_equal_one_pass_over_the_tree(target, source, monkeypatch):
    monkeypatch.setattr("evaluation.trees.shared.CHUNK", 5)  # paths of one tree scored in several passes
    ids = context(1).ids
    features, scores = scored(target, ids)
    with source.open_round(ids, features, scores) as proposer:
        (tree,) = grow_all([Growing(hybrid(16), Chance(WARM, seeded(0)))], proposer, 5)
    scores.score([tree])
    _, alone = scored(target, ids)
    whole = target.forward_tree(tree.tokens, ancestor_matrix(tree.parent_list), alone._cache)
    torch.testing.assert_close(scores.logits(tree), whole.logits, atol=1e-4, rtol=0)  # float32, another summation order


def test_rows_hold_the_exact_law_and_a_bound(target, source):
    rows = measure_context(target, source, context(2), Plan(ARMS, ("1",), ("walk", "hsd"), num_draws=3))
    assert [(row["tree"], row["draw"]) for row in rows] == [("eagle", 0)] * 2 + [("hybrid", d) for d in range(3)]
    for row in rows[:2]:  # deterministic: the walk attains the bound and no verifier passes it
        assert row["tau"]["walk"] == pytest.approx(row["bound"], abs=1e-5)
        assert row["tau"]["hsd"] == pytest.approx(row["bound"], abs=1e-5)
    assert all(row["sampled"] > 0 and row["bound"] > 0 for row in rows[2:])


def test_the_bound_of_random_trees_holds_on_average(target, source):
    """Mean over 60 draws; the difference to tau is far above its standard error where overlap is small."""
    rows = measure_context(
        target, source, context(3), Plan((TreeArm("hybrid", 6, hybrid(6)),), ("1",), ("hsd",), num_draws=60)
    )
    tau = sum(row["tau"]["hsd"] for row in rows) / 60
    assert tau <= sum(row["bound"] for row in rows) / 60 + 0.03


def test_contexts_belong_to_the_nearest_temperature(target, source):
    plan = Plan(ARMS, ("0", "0.3", "0.6", "1", "1, top-p 0.9"))
    measured = {
        t: {row["sampling"] for row in measure_context(target, source, context(0, t), plan)} for t in (0.0, 0.6, 1.0)
    }
    assert measured == {0.0: {"0"}, 0.6: {"0.3", "0.6"}, 1.0: {"1", "1, top-p 0.9"}}


def test_a_stopped_run_goes_on_behind_the_last_whole_context(target, source, tmp_path):
    contexts, plan, path = [context(n) for n in range(3)], Plan(ARMS, ("1",)), tmp_path / "rows.jsonl"
    next(run(target, source, contexts, plan, path))
    path.write_text(path.read_text() + '[{"context": "gsm8k/1')  # killed while writing
    assert [left for left, _ in run(target, source, contexts, plan, path)] == [1, 0]
    assert list(run(target, source, contexts, plan, path)) == []
    assert list(run(target, source, contexts, plan, tmp_path / "rows-of-another-shard.jsonl")) == []
    whole = [row for c in contexts for row in measure_context(target, source, c, plan)]
    assert read_rows([path]) == json.loads(json.dumps(whole))


def test_gains_are_taken_at_equal_nodes(tmp_path):
    """A tree of 11.31 nodes lies half way between budgets 8 and 16 in the logarithm: its reference is their mean."""

    def row(tree, budget, nodes, number, tau, draw=0):
        return {"context": f"c{number}", "source": "gsm8k", "question": f"q{number}", "sampling": "1", "tree": tree} | {
            "budget": budget, "draw": draw, "nodes": nodes, "depth": 2, "sampled": 1, "bound": None, "tau": tau
        }  # fmt: skip

    rows = [row("eagle", 8, 8, n, {"walk": 1.0}) for n in range(4)]
    rows += [row("eagle", 16, 16, n, {"walk": 2.0}) for n in range(4)]
    rows += [
        row("hybrid", 11, 128**0.5, n, {"hsd": 3.5 + n % 2, "walk": 0.5}, draw) for n in range(4) for draw in (0, 1)
    ]
    table = list(comparison.tree_cells(rows))
    cell = next(c for c in table if (c.source, c.tree, c.verifier) == ("gsm8k", "hybrid", "hsd"))
    assert (cell.tau, cell.contexts, cell.draws) == (4.0, 4, 2.0)
    assert cell.gain == pytest.approx(5.0 / 2.5 - 1)
    assert cell.gain_low < cell.gain < cell.gain_high
    assert {c.source for c in table} == {"gsm8k", comparison.ALL}
    comparison.write_csv(table, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(table)
    comparison.plot(table, "gsm8k", tmp_path / "tau.png")
    assert (tmp_path / "tau.png").stat().st_size > 1000
    assert any("hybrid" in line and "+100.0%" in line for line in comparison.lines(table, "gsm8k", ("hsd",)))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_load_and_keep_their_budgets(path, target, source):
    assert path.read_text().startswith("# eagle-hsd trees compare")
    arms = read_arms(path)
    named = {name for name, fields in yaml.safe_load(path.read_text())["arms"].items()}
    assert {arm.name for arm in arms} == named
    rows = measure_context(target, source, context(0), Plan(arms, ("1",), ("hsd",), num_draws=1, max_depth=4))
    assert all(row["nodes"] <= row["budget"] + 2 for row in rows)


def test_the_plans_name_follows_its_arms():
    assert Plan(ARMS).name == Plan(ARMS).name != Plan(ARMS[:2]).name


def test_acceptance_is_fitted_from_both_sources(target, source):
    for draft in (source, EarlyExit(target)):
        fitted = fit(target, draft, [context(n) for n in range(4)], "1")
        assert all(0 < alpha <= 1 for level in fitted.sampled for row in level for alpha in row)
        assert [len(level) for level in fitted.sampled] == [len(fitted.confidence) + 1] * 2
        assert len(fitted.sampled[0][0]) == 5
    with pytest.raises(ValueError, match="fit on more contexts"):
        fit(target, source, [], "1")


def test_contexts_survive_a_cut_line(tmp_path):
    path = tmp_path / "contexts.jsonl"
    assert read_contexts(path) == []
    row = {"id": "gsm8k/1/1/3", "source": "gsm8k", "question": "1", "temperature": 1.0, "ids": [1, 2]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row)[:20])
    assert read_contexts(path) == [Context("gsm8k/1/1/3", "gsm8k", "1", 1.0, (1, 2))]
    with pytest.raises(ValueError, match="sources holds 'bingo', choose one of held_out"):
        RecordConfig(sources=("bingo",))


def test_a_context_that_was_recorded_anew_is_measured_anew(target, source, tmp_path):
    """Rows were found by the context's name alone: the numbers of old ids stood for new ones."""
    plan, path, old = Plan(ARMS[:1], ("1",)), tmp_path / "rows.jsonl", context(0)
    new = replace(old, ids=tuple(random_ids(12, 77)))
    assert [len(list(run(target, source, contexts, plan, path))) for contexts in ([old], [old], [new], [new])] == [
        1, 0, 1, 0
    ]  # fmt: skip
    assert {row["digest"] for row in read_rows([path], [new])} == {new.digest}
    JsonLines(path).append(*JsonLines(path).read())  # what two writers left
    assert len(read_rows([path], [new])) == 1


@pytest.mark.parametrize("line", ["{oops", "3", "[3]", "[{}]", '[{"context": "a"}]'])
def test_damaged_rows_are_named_with_their_line(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl is damaged at line 1"):
        read_rows([tmp_path / "rows.jsonl"])


CONTEXT = {"id": "gsm8k/1/1/3", "source": "gsm8k", "question": "1", "temperature": 1.0, "ids": [1, 2]}


@pytest.mark.parametrize(
    "change", [{"ids": [1]}, {"ids": [1, -2]}, {"ids": [1, 2.5]}, {"ids": 3}, {"temperature": "warm"}, {"colour": 1}]
)
def test_damaged_contexts_are_named_with_their_line(tmp_path, change):
    JsonLines(tmp_path / "contexts.jsonl").append(CONTEXT, {**CONTEXT, **change})
    with pytest.raises(ValueError, match=r"contexts\.jsonl is damaged at line 2"):
        read_contexts(tmp_path / "contexts.jsonl")


def test_contexts_of_another_target_are_refused(target):
    with pytest.raises(ValueError, match=r"holds token 500, and .* has 97: record contexts of this target"):
        check_vocabulary([replace(context(0), ids=(1, 500))], target)


@pytest.fixture
def recording(target, tmp_path, monkeypatch):
    """Records two contexts an answer of a tiny target into `contexts.jsonl`."""
    monkeypatch.setattr("evaluation.trees.contexts.prompts", lambda source, count: [("a", "w1 w2"), ("b", "w3 w4")])
    monkeypatch.setattr(target, "tokenizer", WordTokenizer())

    def record(**options) -> list[Context]:
        config = RecordConfig(
            **{"output": str(tmp_path / "contexts.jsonl"), "sources": ("gsm8k",), "max_new_tokens": 6, **options}
        )
        return list(record_contexts(target, config))

    return record


@pytest.mark.parametrize("kept_bytes", [-1, -30, None])
def test_the_answer_that_a_kill_cut_is_recorded_again_whole(recording, tmp_path, kept_bytes):
    """A kill between the two lines of an answer lost its second context for ever."""
    path = tmp_path / "contexts.jsonl"
    whole = recording()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + (lines[-1][:kept_bytes] if kept_bytes else b""))
    assert len(recording()) == 2 and recording() == []
    assert sorted(read_contexts(path), key=lambda c: c.id) == sorted(whole, key=lambda c: c.id)


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_cuts": 3}, {"max_new_tokens": 5}])
def test_contexts_made_in_two_ways_do_not_mix(recording, change):
    recording()
    with pytest.raises(ValueError, match=r"was started with something else .*choose another --output"):
        recording(**change)


def test_more_contexts_may_be_asked_for_later(recording):
    assert len(recording(temperatures=(0.0,))) == 4
    assert len(recording(temperatures=(0.0, 1.0))) == 4


ARMS_FILES = {
    "nothing": ("", "found a NoneType"),
    "no YAML": ("arms: [", "is no YAML"),
    "no arms": ("budgets: [8]", "expected `arms"),
    "arms as a list": ("arms: [eagle]\nbudgets: [8]", "expected `arms"),
    "an arm that is none": ("arms: {eagle: 3}\nbudgets: [8]", "expected `arms"),
    "no budgets": ("arms: {eagle: {}}", "budgets are .*expected whole numbers from 2 on"),
    "wrong budgets": ("arms: {eagle: {}}\nbudgets: [8, many]", "expected whole numbers from 2 on"),
    "half a budget": ("arms: {eagle: {}}\nbudgets: [8.5]", "expected whole numbers from 2 on"),
    "an unknown tree": ("arms: {oak: {}}\nbudgets: [8]", "arm 'oak': unknown tree"),
    "an unknown field": ("arms: {eagle: {colour: 1}}\nbudgets: [8]", "arm 'eagle': .*no field colour"),
    "a wrong place": ("arms: {eagle: {at: 3}}\nbudgets: [8]", "arm 'eagle'"),
    "nothing at the budget": ("arms: {eagle: {at: {9: {}}}}\nbudgets: [8]", "has no arm at the budgets 8"),
}


@pytest.mark.parametrize("kind", ARMS_FILES)
def test_wrong_files_of_arms_are_one_line_with_the_file(tmp_path, kind):
    content, message = ARMS_FILES[kind]
    (tmp_path / "arms.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_arms(tmp_path / "arms.yaml")
    assert "\n" not in str(refused.value) and "arms.yaml" in str(refused.value)


def test_tree_paths_follow_the_tokens():
    tree = hsd_verify.DraftTree(torch.tensor([-1, 0, 0, 1]), torch.tensor([9, 4, 5, 6]))
    assert tree_paths(tree) == [(), (4,), (5,), (4, 6)]
    assert laboratory.SAMPLINGS["0"].greedy

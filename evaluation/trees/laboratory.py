"""Many trees on the same contexts, each with the exact expected number of accepted tokens of every verifier.

    context -> prefill -> every policy grows its trees -> all paths scored by the target -> exact law -> one row a tree

A tree that was grown on an answer's noise is followed with that noise: its row is one draw, and the mean over draws
estimates the expectation.

A context's rows are written together, so that a stopped run goes on behind the last whole context.

Letters: N tree nodes including the root, T context tokens, V vocabulary.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import hsd_verify
from eagle.engine.target import Target
from eagle.files import JsonLines, read_text
from eagle.judging import COUPLED, Judge, judge
from eagle.sampling import Sampling, seeded
from eagle.seeds import stable_number
from eagle.trees import CoupledTree, TreePolicy, make_policy
from evaluation.expected import counted_nodes, path_probs
from evaluation.rows import read_as
from evaluation.trees.contexts import Context
from evaluation.trees.shared import DraftSource, Growing, PathScores, grow_all
from hsd_verify import DraftTree

SAMPLINGS = {
    "0": Sampling(0.0),
    "0.3": Sampling(0.3),
    "0.6": Sampling(0.6),
    "0.8": Sampling(0.8),
    "1": Sampling(1.0),
    "1, top-p 0.9": Sampling(1.0, top_p=0.9),
}
ROW = ("context", "source", "question", "sampling", "tree", "budget", "draw", "nodes", "depth", "tau", "bound")
NOISES_A_DRAW = 3  # an outcome says less of a tree than a law does
USUAL = tuple(label for label in SAMPLINGS if label != "0.8")


@dataclass(frozen=True)
class TreeArm:
    """A policy with a node budget."""

    name: str
    budget: int
    policy: TreePolicy

    @property
    def coupled(self) -> bool:
        """Verified by the noise it shares; else by the plan's verifiers, each with its exact law."""
        return isinstance(self.policy, CoupledTree)


@dataclass(frozen=True)
class Plan:
    """What is measured on every context; rows depend on all of it."""

    arms: tuple[TreeArm, ...]
    samplings: tuple[str, ...] = USUAL
    verifiers: tuple[str, ...] = ("walk", "hsd", "tokenwise")
    num_draws: int = 2  # trees of a policy that draws
    max_depth: int = 16
    seed: int = 0

    @property
    def name(self) -> str:
        """Names the rows of this plan: other arms, other rows."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def read_arms(path: Path, budgets: Iterable[int] | None = None) -> tuple[TreeArm, ...]:
    """The arms of a YAML file: `arms: {name: {tree: .., field: .., at: {budget: {field: ..}}}}`, `budgets: [..]`.

    An arm gets `num_nodes` from the budget unless `at` says which fields stand for it; an arm with `at` is left out
    at budgets it does not name. Raises ValueError that names file and arm for what means nothing.
    """
    content = _read_yaml(path)
    named, usual = content.get("arms"), content.get("budgets")
    if not isinstance(named, dict) or not all(isinstance(fields, dict) for fields in named.values()):
        raise ValueError(f"{path}: expected `arms: {{NAME: {{tree: .., FIELD: ..}}}}`, found {named!r:.100}")
    wanted = list(budgets or (usual if isinstance(usual, list) else ()))
    if not wanted or not all(type(budget) is int and budget > 1 for budget in wanted):
        raise ValueError(f"{path}: budgets are {usual if usual else wanted!r:.100}, expected whole numbers from 2 on")
    arms = [_named_arm(path, str(name), fields, budget) for name, fields in named.items() for budget in wanted]
    if not any(arms):
        raise ValueError(f"{path} has no arm at the budgets {', '.join(map(str, wanted))}")
    return tuple(arm for arm in arms if arm is not None)


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected 'key: value' lines, found a {type(content).__name__}")
    return content


def _named_arm(path: Path, name: str, fields: dict[str, Any], budget: int) -> TreeArm | None:
    """The arm; what is wrong with it is said with file and name."""
    try:
        return _arm(name, dict(fields), budget)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: arm '{name}': {error}") from None


def _arm(name: str, fields: dict[str, Any], budget: int) -> TreeArm | None:
    at = fields.pop("at", None)
    if at is not None and budget not in at:
        return None
    own = {"num_nodes": budget} if at is None else at[budget]
    return TreeArm(name, budget, make_policy(fields.pop("tree", name), **fields, **own))


def measure_context(target: Target, source: DraftSource, context: Context, plan: Plan) -> list[dict[str, Any]]:
    """One row a tree: the arms' trees on one context at the samplings that belong to its temperature."""
    jobs = list(_jobs(context, plan, target))
    cache = target.new_cache()
    output = target.prefill(torch.tensor(context.ids[:-1], device=target.device), cache)
    scores = PathScores(target, cache, context.ids[-1])
    position = len(context.ids)  # of the token behind the root
    growing = [Growing(job.arm.policy, job.judge.chance(position)) for job in jobs]
    with torch.inference_mode():
        with source.open_round(context.ids, output.features, scores) as proposer:
            trees = grow_all(growing, proposer, plan.max_depth)
        scores.score(trees)
        return [
            {"context": context.id, "digest": context.digest, "source": context.source}
            | {"question": f"{context.source}/{context.question}"}
            | {"sampling": job.label, "tree": job.arm.name, "budget": job.arm.budget, "draw": job.draw}
            | _outcome(job, tree, scores.logits(tree), plan.verifiers, position, target.end_token_ids)
            for job, tree in zip(jobs, trees, strict=True)
        ]


@dataclass(frozen=True)
class _Job:
    """One tree of a context."""

    arm: TreeArm
    label: str  # of the sampling
    draw: int
    judge: Judge


def _jobs(context: Context, plan: Plan, target: Target) -> Iterator[_Job]:
    for label in plan.samplings:
        sampling = SAMPLINGS[label]
        if not belongs(context.temperature, sampling.temperature):
            continue
        for arm in plan.arms:
            is_drawn = sampling.temperature > 0 and not arm.name.startswith("eagle")
            num_draws = plan.num_draws * (NOISES_A_DRAW if arm.coupled else 1)
            for draw in range(num_draws if is_drawn else 1):
                own = seeded(stable_number(plan.seed, context.id, draw), target.device)
                verifier = COUPLED if arm.coupled else plan.verifiers[0]
                yield _Job(arm, label, draw, judge(sampling, verifier, own, target.device))


def belongs(recorded: float, temperature: float, all_recorded: tuple[float, ...] = (0.0, 0.6, 1.0)) -> bool:
    """Whether contexts recorded at one temperature stand for another: it is the nearest, the higher one on ties."""
    return recorded == min(all_recorded, key=lambda other: (abs(other - temperature), -other))


def _outcome(
    job: _Job, tree: DraftTree, logits: Tensor, verifiers: tuple[str, ...], position: int, end_token_ids: frozenset[int]
) -> dict[str, Any]:
    counted = counted_nodes(tree, end_token_ids)  # (N,)
    shape = {"nodes": tree.num_nodes, "depth": max(tree.depth), "sampled": sum(tree.sampled_list)}
    if job.arm.coupled:  # the noise of the draw settles what is accepted: a mean over draws is the expectation
        path = job.judge.verdict(tree, logits, position).path
        return {**shape, "tau": {COUPLED: float(counted[path].sum())}, "bound": None}
    probs = job.judge.sampling.law(logits)  # (N, V)
    tau = {}
    for verifier in verifiers:
        try:
            tau[verifier] = float(hsd_verify.law(tree, probs, verifier).reach.double()[counted].sum())
        except ValueError:
            continue  # this verifier does not apply to this tree, and says so
    bound = _bound(tree, probs)
    return {**shape, "tau": tau, "bound": None if bound is None else float(bound[counted].sum())}


def _bound(tree: DraftTree, probs: Tensor) -> Tensor | None:
    """(N,) min(1, p(v) / Pr[v in tree]), whose sum estimates without bias what no verifier can pass.

    None where that probability is not a product along the path: several sampled siblings at a node.
    """
    inclusion = [1.0]
    for node in range(1, tree.num_nodes):
        parent, drawn = tree.parent_list[node], tree.sampled_list[node]
        if drawn and len(tree.sampled_children(parent)) > 1:
            return None
        own = float(tree.draft_probs[parent, tree.tokens[node]]) if drawn and tree.draft_probs is not None else 1.0
        inclusion.append(inclusion[parent] * own)
    return (path_probs(tree, probs) / torch.tensor(inclusion, dtype=torch.float64, device=probs.device)).clamp(max=1)


def run(
    target: Target, source: DraftSource, contexts: list[Context], plan: Plan, rows_path: Path
) -> Iterator[tuple[int, Context]]:
    """Append the rows of every context that has none yet, in any file beside this one; yields how many are left to do,
    and the one just done. Rows of a context that was recorded anew under its old name do not count.
    """
    done = {(row["context"], row["digest"]) for row in read_rows(sorted(rows_path.parent.glob("rows*.jsonl")))}
    missing = [context for context in contexts if (context.id, context.digest) not in done]
    file = JsonLines(rows_path)
    for number, context in enumerate(missing, start=1):
        file.append(measure_context(target, source, context, plan))
        yield len(missing) - number, context


def read_rows(paths: Iterable[Path], contexts: Iterable[Context] | None = None) -> list[dict[str, Any]]:
    """The rows of all files, one line a context; a last line cut by a kill is left out, and so are twins.

    contexts: leave out rows of contexts that are among these by name, but with other ids. Raises ValueError that names
    the line where a file is damaged.
    """
    current = {context.id: context.digest for context in contexts or ()}
    by_context = {
        (row["context"], row["digest"], row["sampling"], row["tree"], row["budget"], row["draw"]): row
        for path in paths
        for rows in read_as(JsonLines(path), _checked)
        for row in rows
    }
    return [row for row in by_context.values() if current.get(row["context"], row["digest"]) == row["digest"]]


def _checked(rows: Any) -> list[dict[str, Any]]:
    """The rows of a line. Raises KeyError and TypeError for others; rows of older versions have no digest."""
    whole = [{"digest": None, **row} for row in rows]
    for row in whole:
        missing = [name for name in ROW if name not in row]
        if missing or not isinstance(row["tau"], dict):
            raise KeyError(", ".join(missing) or "tau")
    return whole

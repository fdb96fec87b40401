"""Measure one head on held-out contexts and write its `drafting.json`: what `eagle.planner` chooses trees by.

    contexts -> how often slots are accepted (`evaluation.trees.fit`), all levels and temperatures together
             -> how sharp the perturbed order is (`evaluation.trees.fit_coupled`)
             -> expected tau of all kinds of default tree at every size and temperature (`evaluation.trees.laboratory`)
             -> one file beside the head

Stopped at any moment, it goes on with the laboratory's rows; the acceptance is measured again.

Letters: N tree nodes including the root.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from eagle.engine.target import Target
from eagle.files import only_writer, remove_leftovers
from eagle.judging import COUPLED
from eagle.trees import Acceptance, CoupledValues
from eagle.trees.automatic import partly_sampled, perturbed, placed
from eagle.trees.fitted import Expected, HeadFit
from evaluation.trees.comparison import TreeCell, tree_cells
from evaluation.trees.contexts import Context
from evaluation.trees.fit import AcceptanceSums, add_rounds
from evaluation.trees.fit_coupled import SharpnessSums, add_contexts
from evaluation.trees.laboratory import SAMPLINGS, Plan, TreeArm, belongs, read_rows, run
from evaluation.trees.shared import DraftSource

SIZES = (4, 6, 8, 12, 16, 32, 60)  # N
LABELS = ("0", "0.3", "0.6", "0.8", "1")
FITTED_AT = ("0.6", "1")  # contexts are recorded at these temperatures
VERIFIER = {"eagle": "walk", "mixed": "hsd"}  # of the others: coupled
Say = Callable[[str], None]


def fit_head(
    target: Target, source: DraftSource, contexts: Sequence[Context], head: str, folder: Path, num_draws: int, say: Say
) -> HeadFit:
    """All numbers of one head; `head` is its fingerprint, `folder` keeps the rows. Provenance is the caller's."""
    acceptance = fit_acceptance(target, source, contexts, say)
    coupled = fit_coupled(target, source, contexts, say)
    plan = plan_of(acceptance, coupled, num_draws)
    rows_path = folder / f"fit-{head}-{plan.name}" / "rows.jsonl"
    with only_writer(rows_path.parent):
        remove_leftovers(rows_path.parent)
        for left, context in run(target, source, list(contexts), plan, rows_path):
            say(f"trees: {context.id}, {left} contexts left")
    expected = expected_rounds(tree_cells(read_rows([rows_path], contexts)))
    return HeadFit(acceptance, tuple(expected), head, coupled=coupled)


def fit_acceptance(target: Target, source: DraftSource, contexts: Sequence[Context], say: Say) -> Acceptance:
    """How often slots are accepted: one table, so that every number has as many rounds behind it as there are."""
    sums = AcceptanceSums()
    for label in FITTED_AT:
        chosen = [context for context in contexts if belongs(context.temperature, SAMPLINGS[label].temperature)]
        for number, _ in enumerate(add_rounds(sums, target, source, chosen, label), start=1):
            say(f"acceptance at temperature {label}: {number} of {len(chosen)} contexts")
    return sums.pooled()


def fit_coupled(target: Target, source: DraftSource, contexts: Sequence[Context], say: Say) -> dict[str, CoupledValues]:
    """How sharp the head's perturbed order is, at all temperatures together."""
    sums = SharpnessSums()
    for label in FITTED_AT:
        sampling = SAMPLINGS[label]
        chosen = [context for context in contexts if belongs(context.temperature, sampling.temperature)]
        for number, _ in enumerate(add_contexts(sums, target, source, chosen, sampling), start=1):
            say(f"shared noise at temperature {label}: {number} of {len(chosen)} contexts")
    return sums.fitted()


def plan_of(acceptance: Acceptance, coupled: Mapping[str, CoupledValues], num_draws: int) -> Plan:
    """All kinds of tree at every size, as `eagle.planner` would make them."""
    eagle = [TreeArm("eagle", size, placed(size)) for size in SIZES]
    mixed = [TreeArm("mixed", size, partly_sampled(size, acceptance)) for size in SIZES]
    shared = [TreeArm(name, size, perturbed(size, own)) for name, own in coupled.items() for size in SIZES]
    return Plan((*eagle, *mixed, *shared), LABELS, ("walk", "hsd"), num_draws)


def expected_rounds(cells: Iterable[TreeCell]) -> Iterable[Expected]:
    """What the planner reads of the laboratory's table: a row a temperature and kind of tree."""
    by_kind: dict[tuple[str, str], list[TreeCell]] = {}
    for cell in cells:
        if VERIFIER.get(cell.tree, COUPLED) == cell.verifier:
            by_kind.setdefault((cell.sampling, cell.tree), []).append(cell)
    for (label, tree), sizes in sorted(by_kind.items()):
        sizes.sort(key=lambda cell: cell.budget)
        yield Expected(
            SAMPLINGS[label].temperature,
            tree,
            tuple(cell.budget for cell in sizes),
            tuple(round(cell.tau, 3) for cell in sizes),
            tuple(round(_tau_low(cell), 3) for cell in sizes),
            tuple(round(cell.depth, 2) for cell in sizes),
        )


def _tau_low(cell: TreeCell) -> float:
    """tau at the lower end of the interval of the gain over the deterministic tree; that tree's own is its tau."""
    if cell.tree == "eagle" or cell.gain is None or cell.gain_low is None:
        return cell.tau
    return (1 + cell.tau) * (1 + cell.gain_low) / (1 + cell.gain) - 1

"""Which tree pays: the milliseconds of this machine, put together with what was measured of the head.

    measure_costs   a target pass over 1 .. 64 nodes and a draft step, a few seconds
    load_costs      the same, from a file in the user's cache where this machine, target and dtype were measured before
    plan            a policy with what it leaves open filled in: the default tree, `coupled`, `budgeted`
    plan_reference  EAGLE's tree with the budget that pays at temperature 0

Numbers of the head are in its `drafting.json` (`eagle.trees.fitted`). Without it trees keep neutral defaults.

Letters: N tree nodes including the root.
"""

import hashlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from eagle.chance import Chance
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.masks import ancestor_matrix, chain_parents
from eagle.engine.target import Target
from eagle.files import cache_dir, read_json, write_json
from eagle.sampling import Sampling, seeded
from eagle.trees.automatic import AutoTree, partly_sampled, perturbed, placed
from eagle.trees.budgeted import BudgetedTree
from eagle.trees.costs import CostModel
from eagle.trees.coupled import CoupledTree
from eagle.trees.fitted import Expected, HeadFit
from eagle.trees.protocols import TreePolicy
from eagle.trees.valued import ValuedTree

NUM_NODES = (1, 8, 16, 32, 64)
PREFIX_TOKENS = 256
REPEATS = 5
MAX_SECONDS = 15.0  # a slow machine gets fewer repeats, never less than one of each
DRAFT_LEVELS = 5
READ_NODES = 4  # of a level, as trees of a dozen nodes have it
FORMAT = 3  # of the files: counts up when something else is measured
KNEE = 0.99  # of the best rate: measurements repeat to 1 %, and of sizes as good as that the smallest is the safest


def plan(policy: TreePolicy, target: Target, head: DraftHead, directory: Path | None = None) -> TreePolicy:
    """The policy with what it leaves open filled in for this head and machine; any other policy as it is.

    `directory` holds measured costs, by default a folder of the user's cache.
    """
    if isinstance(policy, AutoTree) and head.fit is not None and not policy.trees:
        return _plan_auto(policy, head.fit, load_costs(target, head, directory))
    if isinstance(policy, CoupledTree) and policy.values is None and head.fit is not None:
        return replace(policy, values=head.fit.coupled.get("coupled"))
    if isinstance(policy, BudgetedTree) and policy.cost is None:
        return _plan_budgeted(policy, head.fit, load_costs(target, head, directory))
    return policy


def plan_reference(target: Target, head: DraftHead, directory: Path | None = None) -> TreePolicy:
    """EAGLE's deterministic tree as the default has it at temperature 0, for every temperature."""
    policy = plan(AutoTree(), target, head, directory)
    assert isinstance(policy, AutoTree)
    return policy.choose(Sampling())


def _plan_auto(policy: AutoTree, fit: HeadFit, costs: CostModel) -> AutoTree:
    """At every measured temperature the tree with the most tokens a second; sizes that the policy names stay."""
    trees = tuple((temperature, _best_tree(policy, fit, temperature, costs)) for temperature in fit.temperatures)
    coupled = tuple(
        (temperature, _best_coupled(policy, fit, temperature, costs)) for temperature in fit.temperatures if fit.coupled
    )
    return replace(policy, trees=trees, coupled_trees=coupled)


def _best_tree(policy: AutoTree, fit: HeadFit, temperature: float, costs: CostModel) -> TreePolicy:
    """The deterministic tree, unless the partly sampled one is faster even one standard error below its mean."""
    kinds = fit.at(temperature)
    if _is_sampled(policy, kinds, temperature, costs):
        return partly_sampled(policy.num_nodes or best_budget(costs, kinds["mixed"].by_size), fit.acceptance)
    return placed(policy.greedy_nodes or policy.num_nodes or best_budget(costs, kinds["eagle"].by_size))


def _best_coupled(policy: AutoTree, fit: HeadFit, temperature: float, costs: CostModel) -> TreePolicy:
    """Under shared noise the fastest: a tree that reads it, a blunt or a deep one, or the deterministic one."""
    kinds = {name: rounds.by_size for name, rounds in fit.at(temperature).items() if name in ("eagle", *fit.coupled)}
    fastest = max(kinds, key=lambda name: _fastest(costs, kinds[name]))
    num_nodes = policy.num_nodes or best_budget(costs, kinds[fastest])
    return placed(num_nodes) if fastest == "eagle" else perturbed(num_nodes, fit.coupled[fastest])


def _is_sampled(policy: AutoTree, kinds: Mapping[str, Expected], temperature: float, costs: CostModel) -> bool:
    if "mixed" not in kinds or policy.sampled_from is not None:
        return "mixed" in kinds and temperature >= (policy.sampled_from or 0.0)
    return _fastest(costs, kinds["mixed"].cautious) > _fastest(costs, kinds["eagle"].by_size)


def _fastest(costs: CostModel, expected: Mapping[int, tuple[float, float]]) -> float:
    """Tokens a millisecond at the best size."""
    return max(_rate(costs, size, expected) for size in expected)


def _plan_budgeted(policy: BudgetedTree, fit: HeadFit | None, costs: CostModel) -> BudgetedTree:
    """Costs of the machine; acceptance and the rate that the default tree reaches where the head has numbers."""
    if fit is None:
        return replace(policy, cost=costs)
    sizes = [rounds.by_size for rounds in fit.at(fit.temperatures[-1]).values()]
    rate = policy.rate or max(_fastest(costs, by_size) for by_size in sizes)
    return replace(policy, cost=costs, rate=rate, valued=replace(policy.valued, acceptance=fit.acceptance))


def load_costs(target: Target, head: DraftHead | None = None, directory: Path | None = None) -> CostModel:
    """The cost model of this machine, target and dtype; measured and written down where there is none yet.

    `directory` holds the files, by default a folder of the user's cache. A file that cannot be read is replaced; a
    folder that cannot be written is named in a warning, and the next start measures again.
    """
    path = (directory or cache_dir() / "costs") / f"{_key(target, head)}.json"
    try:
        return CostModel(**read_json(path))
    except (OSError, TypeError, ValueError):
        costs = measure_costs(target, head)
    try:
        write_json(path, asdict(costs))
    except OSError as error:
        warnings.warn(f"costs cannot be kept at {path} ({error}): set EAGLE_HSD_CACHE to another folder", stacklevel=2)
    return costs


@torch.inference_mode()
def measure_costs(target: Target, head: DraftHead | None = None) -> CostModel:
    """Medians of a few passes each. Without a head the draft step is not counted. Changes neither model."""
    deadline = time.perf_counter() + MAX_SECONDS
    sizes = tuple(num_nodes for num_nodes in NUM_NODES if num_nodes < target.context_limit)  # all but for toys
    prefix = torch.arange(min(PREFIX_TOKENS, target.context_limit - max(sizes)), device=target.device)
    cache = target.new_cache()
    features = target.prefill(prefix % target.vocab_size, cache).features  # (T, 3H)

    def score(num_nodes: int) -> None:
        tokens = torch.zeros(num_nodes, dtype=torch.int64, device=target.device)
        target.forward_tree(tokens, ancestor_matrix(chain_parents(num_nodes)), cache)
        cache.keep(tokens[:0])

    target_ms = [_milliseconds(partial(score, n), target.device, deadline) for n in sizes]
    rising = tuple(max(target_ms[: i + 1]) for i in range(len(target_ms)))  # noise must not make nodes free
    if head is None:
        return CostModel(sizes, rising)
    step_ms = _draft_step_ms(target, head, features, lambda: score(1), deadline)
    return CostModel(sizes, tuple(round(ms, 3) for ms in rising), round(step_ms, 3))


def best_budget(costs: CostModel, expected: Mapping[int, tuple[float, float]]) -> int:
    """The smallest node budget with `KNEE` of the most tokens a second.

    `expected`: N -> accepted tokens and draft steps of a round. Raises ValueError where it is empty.
    """
    if not expected:
        raise ValueError("expected is empty: give accepted tokens and draft steps for at least one node budget")
    rates = {num_nodes: _rate(costs, num_nodes, expected) for num_nodes in sorted(expected)}
    return next(num_nodes for num_nodes, rate in rates.items() if rate >= KNEE * max(rates.values()))


def _rate(costs: CostModel, num_nodes: int, expected: Mapping[int, tuple[float, float]]) -> float:
    """Tokens a millisecond with trees of so many nodes."""
    tau, num_steps = expected[num_nodes]
    target_ms = float(costs.target_at(torch.tensor(num_nodes)))
    return (1 + tau) / (target_ms + num_steps * costs.draft_step_ms)


def _draft_step_ms(
    target: Target, head: DraftHead, features: torch.Tensor, read_target: Callable[[], object], deadline: float
) -> float:
    """A level of a tree: what deep trees take longer than shallow ones, by level.

    `read_target` runs in between, as it does in decoding: it leaves none of the head's weights in the caches.
    """
    policy = ValuedTree(64, threshold=1e-6, depth=DRAFT_LEVELS + 1, max_placed=1, max_read=READ_NODES)
    drafter = EagleDrafter(head, target.embed, policy)
    drafter.observe(torch.zeros(len(features) + 1, dtype=torch.int64), features)

    def propose(depth: int) -> float:
        draws = seeded(0, target.device)
        return _milliseconds(
            lambda: drafter.propose(Chance(Sampling(1.0), draws), depth), target.device, deadline, before=read_target
        )

    return max(0.0, (propose(DRAFT_LEVELS + 1) - propose(1)) / DRAFT_LEVELS)


def _milliseconds(
    work: Callable[[], object], device: torch.device, deadline: float, before: Callable[[], object] = lambda: None
) -> float:
    """Median of a few runs after one to warm up, `before` each of which something else is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: list[float] = []
    for _ in range(1 + REPEATS):
        before()
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(1000 * (time.perf_counter() - start))
        if time.perf_counter() > deadline:
            break
    return statistics.median(times[1:] or times)


def _key(target: Target, head: DraftHead | None) -> str:
    """What the times depend on. The machine is known by its processor, its accelerator and its threads."""
    accelerator = torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else ""
    machine = (platform.node(), platform.processor() or platform.machine(), os.cpu_count(), accelerator)
    weights = sum(weight.nbytes for weight in [*target.model.parameters(), *target.model.buffers()])  # quantised ones
    models = (target.name, str(target.dtype), weights, target.small_pass is not None, head and str(head.config))
    parts = (FORMAT, machine, torch.get_num_threads(), torch.__version__, str(target.device), models)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

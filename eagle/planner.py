"""Which tree pays: the milliseconds of this machine, put together with what was measured of the head.

    measure_costs   a target pass over 1 .. 64 nodes, a draft step and what a drafted round takes besides; some seconds;
                    of one sequence, or of the passes that the rows of a batch share
    load_costs      the same, from a file in the user's cache where this machine, target and dtype were measured before
    plan            a policy with what it leaves open filled in: the default tree, `coupled`, `budgeted`
    plan_crowded    the default tree for every number of rows of a batch; planned_drafters: those that grow it
    plan_reference  EAGLE's tree with the budget that pays at temperature 0

Numbers of the head are in its `drafting.json` (`eagle.trees.fitted`). Without it trees keep neutral defaults.

Letters: B rows of a batch, N tree nodes including the root.
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
from itertools import count, takewhile
from pathlib import Path

import torch

from eagle.batching import finish
from eagle.chance import Chance
from eagle.coroutines import Requests
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.lookup import LookupDrafter
from eagle.engine.cache import TargetCache
from eagle.engine.masks import ancestor_matrix, chain_parents
from eagle.engine.requests import TreeScore
from eagle.engine.target import Target
from eagle.files import cache_dir, read_json, write_json
from eagle.sampling import Sampling, seeded
from eagle.trees.automatic import AutoTree, partly_sampled, perturbed, placed
from eagle.trees.budgeted import BudgetedTree
from eagle.trees.costs import CostModel
from eagle.trees.coupled import CoupledTree
from eagle.trees.fitted import Expected, HeadFit
from eagle.trees.protocols import TreePolicy
from eagle.trees.undrafted import Undrafted
from eagle.trees.valued import ValuedTree

NUM_NODES = (1, 8, 16, 32, 64)
PREFIX_TOKENS = 256
LONG_PREFIX_TOKENS = 2048  # measured as well where reading them does not take too long
REPEATS = 5
MAX_SECONDS = 15.0  # a slow machine gets fewer repeats, never less than one of each
READING_SECONDS = 5.0  # for the long prefix: costs are measured behind what was read by then
DRAFT_LEVELS = 5
READ_NODES = 4  # of a level, as trees of a dozen nodes have it
EMITTED = 3  # tokens that the head reads in a round of average luck
FORMAT = 6  # of the files: counts up when something else is measured
KNEE = 0.99  # of the best rate: measurements repeat to 1 %, and of sizes as good as that the smallest is the safest
_Choose = Callable[[AutoTree, HeadFit, float, CostModel], tuple[TreePolicy, float]]


def plan(
    policy: TreePolicy,
    target: Target,
    head: DraftHead,
    directory: Path | None = None,
    may_be_plain: bool = False,
    rows: int = 1,
) -> TreePolicy:
    """The policy with what it leaves open filled in for this head and machine; any other policy as it is.

    directory: holds measured costs, by default a folder of the user's cache.
    may_be_plain: the default tree is `Undrafted` where plain decoding is faster than every size that was measured of
        the head; not where the policy names a size.
    rows: of the batch whose passes it is planned for.
    """
    if isinstance(policy, AutoTree) and head.fit is not None and not policy.trees:
        costs = load_costs(target, head, directory, rows)
        return _plan_lengths(policy, head.fit, costs, target.context_limit, may_be_plain)
    if isinstance(policy, CoupledTree) and policy.values is None and head.fit is not None:
        return replace(policy, values=head.fit.coupled.get("coupled"))
    if isinstance(policy, BudgetedTree) and policy.cost is None:
        return _plan_budgeted(policy, head.fit, load_costs(target, head, directory, rows))
    return policy


def plan_crowded(
    policy: TreePolicy,
    target: Target,
    head: DraftHead,
    most_rows: int,
    directory: Path | None = None,
    may_be_plain: bool = False,
) -> TreePolicy:
    """As `plan`, for batches of up to `most_rows` rows that come and go; plain decoding is for two rows and more.

    Costs are measured for one row and for all of them, and linear in between. Where rows cannot share passes, or the
    policy is another one than the default, it is planned for one.
    """
    planned = plan(policy, target, head, directory)
    if most_rows < 2 or target.why_not_together or not isinstance(planned, AutoTree) or not planned.trees:
        return planned
    assert isinstance(policy, AutoTree) and head.fit is not None, "only then there are trees"
    few, many = (load_costs(target, head, directory, rows) for rows in (1, most_rows))
    sizes = sorted({*takewhile(lambda rows: rows < most_rows, (2**n for n in count(1))), most_rows})
    costs = ((rows, few.towards(many, (rows - 1) / (most_rows - 1))) for rows in sizes)
    limit, fit = target.context_limit, head.fit
    crowded = tuple((rows, _plan_lengths(policy, fit, cost, limit, may_be_plain)) for rows, cost in costs)
    return replace(planned, crowded=crowded)


def planned_drafters(
    target: Target, head: DraftHead, policy: TreePolicy, most_rows: int, lookup: bool = False
) -> Callable[[], EagleDrafter]:
    """Makes drafters for up to so many rows that share passes, all with one head and one plan.

    With a `lookup` trees also hold what followed the text's end before, and are never plain.
    """
    planned = plan_crowded(policy, target, head, most_rows, may_be_plain=not lookup)
    return lambda: EagleDrafter(head, target.embed, planned, LookupDrafter() if lookup else None)


def plan_reference(target: Target, head: DraftHead, directory: Path | None = None, rows: int = 1) -> TreePolicy:
    """EAGLE's deterministic tree as the default has it at temperature 0, for every temperature."""
    policy = plan(AutoTree(), target, head, directory, rows=rows)
    assert isinstance(policy, AutoTree)
    return policy.choose(Sampling())


def _plan_lengths(policy: AutoTree, fit: HeadFit, costs: CostModel, limit: int, may_be_plain: bool) -> AutoTree:
    """The default tree for every length of text: planned anew at every doubling, where costs are known to grow."""
    may_be_plain &= policy.num_nodes is None and policy.greedy_nodes is None
    planned = _plan_auto(policy, fit, costs, may_be_plain)
    if not costs.long_target_ms:
        return planned
    lengths = takewhile(lambda length: length < limit, (costs.context << n for n in count(1)))
    longer = ((length, _plan_auto(policy, fit, costs.behind(length), may_be_plain)) for length in lengths)
    return replace(planned, longer=tuple(longer))


def _plan_auto(policy: AutoTree, fit: HeadFit, costs: CostModel, may_be_plain: bool) -> AutoTree:
    """At every measured temperature the tree with the most tokens a second; sizes that the policy names stay."""

    def best(choose: _Choose, temperature: float) -> TreePolicy:
        tree, rate = choose(policy, fit, temperature, costs)
        return Undrafted() if may_be_plain and rate * costs.plain_ms <= 1 else tree

    trees = tuple((temperature, best(_best_tree, temperature)) for temperature in fit.temperatures)
    coupled = tuple((temperature, best(_best_coupled, temperature)) for temperature in fit.temperatures if fit.coupled)
    return replace(policy, trees=trees, coupled_trees=coupled)


def _best_tree(policy: AutoTree, fit: HeadFit, temperature: float, costs: CostModel) -> tuple[TreePolicy, float]:
    """The deterministic tree, unless the partly sampled one is faster even one standard error below its mean.

    With the tokens a millisecond that such trees reach.
    """
    kinds = fit.at(temperature)
    if _is_sampled(policy, kinds, temperature, costs):
        sizes = kinds["mixed"].by_size
        tree = partly_sampled(policy.num_nodes or best_budget(costs, sizes), fit.acceptance)
        return tree, _fastest(costs, sizes)
    sizes = kinds["eagle"].by_size
    return placed(policy.greedy_nodes or policy.num_nodes or best_budget(costs, sizes)), _fastest(costs, sizes)


def _best_coupled(policy: AutoTree, fit: HeadFit, temperature: float, costs: CostModel) -> tuple[TreePolicy, float]:
    """Under shared noise the fastest: a tree that reads it, a blunt or a deep one, or the deterministic one."""
    kinds = {name: rounds.by_size for name, rounds in fit.at(temperature).items() if name in ("eagle", *fit.coupled)}
    rates = {name: _fastest(costs, sizes) for name, sizes in kinds.items()}
    fastest = max(rates, key=lambda name: rates[name])
    num_nodes = policy.num_nodes or best_budget(costs, kinds[fastest])
    tree = placed(num_nodes) if fastest == "eagle" else perturbed(num_nodes, fit.coupled[fastest])
    return tree, rates[fastest]


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


def load_costs(
    target: Target, head: DraftHead | None = None, directory: Path | None = None, rows: int = 1
) -> CostModel:
    """The cost model of this machine, target, dtype and number of rows; measured and kept where there is none yet.

    `directory` holds the files, by default a folder of the user's cache. A file that cannot be read is replaced; what
    was measured beside other work, as far as its own numbers show it, is not kept, so that the next start measures
    again; a folder that cannot be written is named in a warning, and the next start measures again.
    """
    path = (directory or cache_dir() / "costs") / f"{_key(target, head, rows)}.json"
    try:
        return CostModel(**read_json(path))
    except (OSError, TypeError, ValueError):
        costs = measure_costs(target, head, rows)
    if not costs.is_plausible:
        return costs
    try:
        write_json(path, asdict(costs))
    except OSError as error:
        warnings.warn(f"costs cannot be kept at {path} ({error}): set EAGLE_HSD_CACHE to another folder", stacklevel=2)
    return costs


@torch.inference_mode()
def measure_costs(target: Target, head: DraftHead | None = None, rows: int = 1) -> CostModel:
    """Medians of a few passes each, which so many rows share. Without a head drafting is not counted.

    Changes neither model.
    """
    deadline = time.perf_counter() + MAX_SECONDS
    sizes = tuple(num_nodes for num_nodes in NUM_NODES if num_nodes < target.context_limit)  # all but for toys
    room = target.context_limit - max(sizes)
    caches = [target.new_cache() for _ in range(rows)]
    features = [_read_on(target, cache, min(PREFIX_TOKENS, room)) for cache in caches]  # B of (T, 3H)

    def score(num_nodes: int) -> None:
        finish(_scoring(target, cache, num_nodes) for cache in caches)

    def passes() -> tuple[float, ...]:
        times = [_milliseconds(partial(score, n), target.device, deadline) for n in sizes]
        return tuple(round(max(times[: i + 1]), 3) for i in range(len(times)))  # noise must not make nodes free

    costs = CostModel(sizes, passes(), context=caches[0].length)
    if head is not None:
        step_ms, round_ms = _drafting_ms(target, head, features, lambda: score(1), deadline)
        costs = replace(costs, draft_step_ms=round(step_ms, 3), round_ms=round(round_ms, 3))
    enough = time.perf_counter() + READING_SECONDS
    while (length := caches[0].length) < min(LONG_PREFIX_TOKENS, room) and time.perf_counter() < enough:
        for cache in caches:
            _read_on(target, cache, min(PREFIX_TOKENS, room - length))
    if length == costs.context:
        return costs
    return replace(costs, long_context=length, long_target_ms=passes())


def _scoring(target: Target, cache: TargetCache, num_nodes: int) -> Requests[None]:
    tokens = torch.zeros(num_nodes, dtype=torch.int64, device=target.device)
    yield TreeScore(target, tokens, ancestor_matrix(chain_parents(num_nodes)), cache)
    cache.keep(tokens[:0])


def _read_on(target: Target, cache: TargetCache, num_tokens: int) -> torch.Tensor:
    """Some tokens behind what the cache holds; their features (T, 3H)."""
    tokens = torch.arange(cache.length, cache.length + num_tokens, device=target.device) % target.vocab_size
    return target.prefill(tokens, cache).features


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
    return (1 + tau) / costs.drafted_ms(num_nodes, num_steps)


def _drafting_ms(
    target: Target, head: DraftHead, features: list[torch.Tensor], read_target: Callable[[], object], deadline: float
) -> tuple[float, float]:
    """A level of a tree, what deep trees take longer than shallow ones by level; and the rest of a drafted round.

    features: B of (T, 3H). `read_target` runs in between, as it does in decoding: it leaves none of the head's weights
    in the caches.
    """
    policy = ValuedTree(64, threshold=1e-6, depth=DRAFT_LEVELS + 1, max_placed=1, max_read=READ_NODES)
    drafters = [EagleDrafter(head, target.embed, policy) for _ in features]
    for drafter, own in zip(drafters, features, strict=True):
        drafter.observe(torch.zeros(len(own) + 1, dtype=torch.int64), own)

    def go_on(depth: int) -> float:
        chance = Chance(Sampling(1.0), seeded(0, target.device))

        def work() -> None:
            finish(_drafting(drafter, own, chance, depth) for drafter, own in zip(drafters, features, strict=True))

        return _milliseconds(work, target.device, deadline, before=read_target)

    deep, shallow = go_on(DRAFT_LEVELS + 1), go_on(1)
    return max(0.0, (deep - shallow) / DRAFT_LEVELS), shallow


def _drafting(drafter: EagleDrafter, features: torch.Tensor, chance: Chance, depth: int) -> Requests[None]:
    """A round behind features (T, 3H), forgotten afterwards."""
    emitted = min(EMITTED, len(features))
    yield from drafter.observing(torch.zeros(emitted, dtype=torch.int64), features[:emitted])
    yield from drafter.proposing(chance, depth)
    drafter.truncate(len(features) + 1)


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


def _key(target: Target, head: DraftHead | None, rows: int) -> str:
    """What the times depend on. The machine is known by its processor, its accelerator and its threads."""
    accelerator = torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else ""
    machine = (platform.node(), platform.processor() or platform.machine(), os.cpu_count(), accelerator)
    weights = sum(weight.nbytes for weight in [*target.model.parameters(), *target.model.buffers()])  # quantised ones
    drafting = head and (str(head.config), head.small_read is not None)
    models = (target.name, str(target.dtype), weights, target.small_pass is not None, drafting)
    parts = (FORMAT, machine, torch.get_num_threads(), torch.__version__, str(target.device), rows, models)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

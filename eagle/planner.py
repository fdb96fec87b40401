"""How large a tree pays on this machine: milliseconds of a round's parts, measured once and remembered.

    measure       a target pass over 1 .. 64 nodes and a draft step, a few seconds
    load_costs    the same, from a file in the user's cache directory where this machine, target and dtype were measured
    best_budget   the smallest node budget with (nearly) the most predicted tokens a second
    tuned_tree    the default tree with the budgets that pay here
    tuned_spec    any tree by name; `auto` and `budgeted` get the numbers of this machine

Letters: N tree nodes including the root.
"""

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.masks import ancestor_matrix, chain_parents
from eagle.engine.target import Target
from eagle.files import read_json, write_json
from eagle.loading import cache_dir
from eagle.sampling import Sampling, seeded
from eagle.trees.automatic import AutoTree
from eagle.trees.costs import CostModel
from eagle.trees.valued import ValuedTree

NUM_NODES = (1, 8, 16, 32, 64)
PREFIX_TOKENS = 256
REPEATS = 5
MAX_SECONDS = 15.0  # a slow machine gets fewer repeats, never less than one of each
DRAFT_LEVELS = 5
READ_NODES = 4  # of a level, as trees of a dozen nodes have it
FORMAT = 2  # of the files: counts up when something else is measured
KNEE = 0.99  # of the best rate: measurements repeat to 1 %, and of sizes as good as that the smallest is the safest
# N -> accepted tokens and draft steps of a round of N nodes: scripts/compare_trees.py on 98 held-out contexts, fifth
# head, temperature 1 and 0. Another head moves all of them together, the best budget little.
EXPECTED_TAU = {
    4: (0.93, 2.0), 6: (1.19, 2.9), 8: (1.38, 3.3), 12: (1.53, 4.1), 16: (1.69, 4.6), 32: (2.02, 5.8), 60: (2.20, 6.9),
}  # fmt: skip
EXPECTED_GREEDY_TAU = {
    4: (1.35, 2.0), 6: (1.76, 2.8), 8: (2.02, 3.2), 12: (2.29, 3.8), 16: (2.45, 4.2), 32: (2.84, 5.2), 60: (3.04, 6.0),
}  # fmt: skip


def load_costs(target: Target, head: DraftHead | None = None, directory: Path | None = None) -> CostModel:
    """The cost model of this machine, target and dtype; measured and written down where there is none yet.

    `directory` holds the files, by default a folder of the user's cache. A file that cannot be read is replaced.
    """
    path = (directory or cache_dir() / "costs") / f"{_key(target, head)}.json"
    try:
        return CostModel(**read_json(path))
    except (FileNotFoundError, json.JSONDecodeError, TypeError, ValueError):
        costs = measure(target, head)
        write_json(path, asdict(costs))
        return costs


def tuned_tree(target: Target, head: DraftHead, directory: Path | None = None) -> AutoTree:
    """The default tree at the knee of tokens a second on this machine, with and without sampling."""
    costs = load_costs(target, head, directory)
    return AutoTree(best_budget(costs, EXPECTED_TAU), best_budget(costs, EXPECTED_GREEDY_TAU))


def tuned_spec(spec: str, target: Target, head: DraftHead, directory: Path | None = None) -> str:
    """`auto` and `budgeted` written out with what was measured on this machine; every other tree as it is."""
    if spec == "auto":
        tree = tuned_tree(target, head, directory)
        return f"auto:num_nodes={tree.num_nodes},greedy_nodes={tree.num_for_greedy}"
    if spec == "budgeted":
        costs = load_costs(target, head, directory)
        rate = max(_rate(costs, num_nodes, EXPECTED_TAU) for num_nodes in EXPECTED_TAU)
        sizes, times = ("+".join(map(str, numbers)) for numbers in (costs.num_nodes, costs.target_ms))
        measured = f"cost.num_nodes={sizes},cost.target_ms={times},cost.draft_step_ms={costs.draft_step_ms}"
        return f"budgeted:rate={rate:.4f},{measured}"
    return spec


@torch.inference_mode()
def measure(target: Target, head: DraftHead | None = None) -> CostModel:
    """Medians of a few passes each. Without a head the draft step keeps its default. Changes neither model."""
    deadline = time.perf_counter() + MAX_SECONDS
    prefix = torch.arange(min(PREFIX_TOKENS, target.context_limit - max(NUM_NODES)), device=target.device)
    cache = target.new_cache()
    features = target.prefill(prefix % target.vocab_size, cache).features  # (T, 3H)

    def score(num_nodes: int) -> None:
        tokens = torch.zeros(num_nodes, dtype=torch.int64, device=target.device)
        target.forward_tree(tokens, ancestor_matrix(chain_parents(num_nodes, target.device)), cache)
        cache.keep(tokens[:0])

    target_ms = [_milliseconds(partial(score, n), target.device, deadline) for n in NUM_NODES]
    rising = tuple(max(target_ms[: i + 1]) for i in range(len(target_ms)))  # noise must not make nodes free
    if head is None:
        return CostModel(NUM_NODES, rising)
    step_ms = _draft_step_ms(target, head, features, lambda: score(1), deadline)
    return CostModel(NUM_NODES, tuple(round(ms, 3) for ms in rising), round(step_ms, 3))


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


def _draft_step_ms(target: Target, head: DraftHead, features: torch.Tensor, read_target, deadline: float) -> float:
    """A level of a tree: what deep trees take longer than shallow ones, by level.

    `read_target` runs in between, as it does in decoding: it leaves none of the head's weights in the caches.
    """
    policy = ValuedTree(64, threshold=1e-6, depth=DRAFT_LEVELS + 1, max_placed=1, max_read=READ_NODES)
    drafter = EagleDrafter(head, target.embed, policy)
    drafter.observe(torch.zeros(len(features) + 1, dtype=torch.int64, device=target.device), features)

    def propose(depth: int) -> float:
        draws = seeded(0, target.device)
        return _milliseconds(
            lambda: drafter.propose(Sampling(1.0), depth, draws), target.device, deadline, before=read_target
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
    models = (target.name, str(target.dtype), head and str(head.config))
    parts = (FORMAT, machine, torch.get_num_threads(), torch.__version__, str(target.device), models)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

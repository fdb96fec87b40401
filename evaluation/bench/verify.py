"""Time one call of every verifier against a plain Python reference and a port of EAGLE's token-wise loop.

    eagle-hsd bench verify --nodes 32 --vocab 49152 --threads 1                      # the target of the project
    eagle-hsd bench verify --nodes 8 32 64 --vocab 32768 49152 128256 --threads 1    # the whole table
    eagle-hsd bench verify --forward    # and one SmolLM2-sized forward

Letters: N nodes including the root, V vocabulary.

All candidates of one row are timed in turn, round after round, so that a busy machine slows them alike. What a call
costs depends on where its verdict ends, so the median over all calls is reported, over several drafted trees, in CPU
time: what a call takes of one thread that is not made to wait for a core (of several threads it is the sum).
`verify` is timed with its checks of the target rows; building the tree, which checks the proposals, apart.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

import hsd_verify
from eagle.options import CommandParser, check_options, option
from hsd_verify.draw import draw_index
from hsd_verify.exact.reference import reference_law

VERIFIERS_BY_TREE = {
    "placed": ("walk", "tokenwise", "hsd"),
    "hybrid": ("walk", "tokenwise", "hsd"),
    "sampled": ("walk", "tokenwise", "traversal", "hsd"),
    "paths": ("walk", "tokenwise", "hsd_multidraft", "hsd"),
    "chain": ("walk", "tokenwise", "block", "hsd_capped", "traversal", "hsd"),
}
NOTHING = torch.empty(0)  # the draft's law where nothing was sampled
MOST_CELLS = 1 << 27  # N x V of a law: half a gigabyte in float32
DRAFT_NOISE = 0.7  # standard deviation of the draft's logits around the target's


@dataclass(frozen=True)
class VerifyBench:
    """What is timed; defaults are the conditions of the project's target."""

    nodes: tuple[int, ...] = option((32,), "N, the root included", at_least=2, at_most=4096)
    vocab: tuple[int, ...] = option((49152,), "V", at_least=8, at_most=1 << 20)
    trees: tuple[str, ...] = option(
        tuple(VERIFIERS_BY_TREE), "their shapes", choices=tuple(VERIFIERS_BY_TREE), each_once=True
    )
    threads: int = option(1, "of torch", at_least=1, at_most=1024)
    rounds: int = option(30, "calls of every candidate on every drafted tree", at_least=1, at_most=1_000_000)
    drafts: int = option(3, "drafted trees of one shape, from consecutive seeds", at_least=1, at_most=1000)
    seed: int = option(0, "of the first one", at_least=0, at_most=1 << 62)
    verifiers: tuple[str, ...] = option(
        tuple(hsd_verify.VERIFIERS),
        "those of them are timed that apply to the tree",
        choices=tuple(hsd_verify.VERIFIERS),
        each_once=True,
    )
    reference: bool = option(True, "also call the plain reference, once")
    forward: bool = option(False, "also time a SmolLM2-135M-sized forward (random weights, bf16) over N tokens")

    def __post_init__(self) -> None:
        check_options(self)
        if self.nodes and self.vocab and max(self.nodes) * max(self.vocab) > MOST_CELLS:
            raise ValueError(
                f"nodes x vocab is {max(self.nodes)} x {max(self.vocab)}, it must be at most {MOST_CELLS}: "
                "a law is that many numbers, and several are kept"
            )


@dataclass(frozen=True, eq=False)
class Case:
    """One drafted tree and the target's laws after its nodes."""

    build: Callable[[], hsd_verify.DraftTree]
    target_probs: Tensor  # (N, V)


def make_case(shape: str, num_nodes: int, vocab: int, seed: int) -> Case:
    """A tree of the named shape, drafted from laws that resemble the target's."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_nodes, vocab, generator=generator)  # (N, V)
    draft = (logits + DRAFT_NOISE * torch.randn(num_nodes, vocab, generator=generator)).softmax(-1)  # (N, V)
    parents, sampled = make_shape(shape, num_nodes)
    tokens = [0] * num_nodes
    for node in range(num_nodes):
        children = [i for i in range(num_nodes) if parents[i] == node]
        fill_children(children, sampled, tokens, draft[node], generator, replacement=shape == "paths")
    arguments = (torch.tensor(parents), torch.tensor(tokens), torch.tensor(sampled), draft if any(sampled) else None)
    return Case(lambda: hsd_verify.DraftTree(*arguments, replacement=shape == "paths"), logits.softmax(-1))


def make_shape(shape: str, num_nodes: int) -> tuple[list[int], list[bool]]:
    """Parents and sampled flags; trees have three children a node, hybrid ones a sampled and two placed."""
    inner = range(num_nodes)
    if shape == "chain":
        return [i - 1 for i in inner], [i > 0 for i in inner]
    if shape == "paths":  # four paths
        return [-1] + [max(0, i - 4) for i in inner[1:]], [i > 0 for i in inner]
    drawn: dict[str, Callable[[int], bool]] = {
        "placed": lambda i: False,
        "hybrid": lambda i: i % 3 == 1,
        "sampled": lambda i: i > 0,
    }
    return [-1] + [(i - 1) // 3 for i in inner[1:]], [drawn[shape](i) for i in inner]


def fill_children(
    children: list[int],
    sampled: list[bool],
    tokens: list[int],
    law: Tensor,
    generator: torch.Generator,
    replacement: bool,
) -> None:
    """Choose the tokens of one node's children; `law` (V,) loses the placed ones in place."""
    placed = [c for c in children if not sampled[c]]
    for child, token in zip(placed, law.topk(max(1, len(placed))).indices.tolist(), strict=False):
        tokens[child] = token
    law[[tokens[c] for c in placed]] = 0
    rest = law.div_(law.sum()).clone()  # (V,)
    for child in (c for c in children if sampled[c]):
        tokens[child] = draw_index(rest, torch.rand((), generator=generator, dtype=torch.float64))
        if not replacement:
            rest[tokens[child]] = 0


def eagle_loop(tree: hsd_verify.DraftTree, target_probs: Tensor, generator: torch.Generator) -> tuple[list[int], int]:
    """Token-wise rejection in the manner of EAGLE: down the tree, one candidate after the other, then multinomial."""
    node, accepted, entered = 0, [], True
    while entered:
        entered = False
        target = target_probs[node]  # (V,)
        draft = NOTHING if tree.draft_probs is None else tree.proposals[node].clone()  # (V,)
        for child in tree.children[node]:
            token, drawn = tree.token_list[child], tree.sampled_list[child]
            chance = target[token] / (draft[token] if drawn else 1.0)
            if torch.rand((), generator=generator).item() <= chance.item():
                node, entered = child, True
                accepted.append(child)
                break
            target = reject(target, draft, token, drawn)
            if drawn and not tree.replacement:
                draft[token] = 0
                draft = draft / draft.sum()
    return accepted, int(torch.multinomial(target, 1, generator=generator))


def prepared(tree: hsd_verify.DraftTree) -> hsd_verify.DraftTree:
    """The tree with everything it works out once, at the first verdict."""
    assert tree.families and (tree.draft_probs is None or len(tree.proposed))
    return tree


def reject(target: Tensor, draft: Tensor, token: int, drawn: bool) -> Tensor:
    """What one rejected candidate leaves of the target's law, (V,)."""
    if drawn:
        target = (target - draft).clamp(min=0)
    else:
        target = target.clone()
        target[token] = 0
    return target / target.sum()


Times = dict[str, list[float]]  # of every candidate, the ms of its calls


def time_in_turn(candidates: dict[str, Callable[[], object]], rounds: int) -> Times:
    """CPU time of every call; a round calls each candidate once, after two rounds of warm-up."""
    elapsed: Times = {name: [] for name in candidates}
    for _ in range(rounds + 2):
        for name, call in candidates.items():
            start = time.process_time()
            call()
            elapsed[name].append(1e3 * (time.process_time() - start))
    return {name: times[2:] for name, times in elapsed.items()}


def time_draft(shape: str, num_nodes: int, vocab: int, seed: int, config: VerifyBench) -> Times:
    """One drafted tree: times of building it, every verifier and the EAGLE loop."""
    case = make_case(shape, num_nodes, vocab, seed)
    tree, generator = case.build(), torch.Generator().manual_seed(seed)
    candidates: dict[str, Callable[[], object]] = {
        "build": lambda: prepared(case.build()),
        "eagle": lambda: eagle_loop(tree, case.target_probs, generator),
    }
    for verifier in VERIFIERS_BY_TREE[shape]:
        if verifier in config.verifiers:
            candidates[verifier] = partial(hsd_verify.verify, tree, case.target_probs, verifier, generator)
    times = time_in_turn(candidates, config.rounds)
    if config.reference and seed == config.seed:
        start = time.process_time()
        reference_law(tree, case.target_probs)
        times["reference"] = [1e3 * (time.process_time() - start)]
    return times


def time_case(shape: str, num_nodes: int, vocab: int, config: VerifyBench) -> dict[str, float]:
    """Median ms of every candidate over the calls on all drafted trees."""
    pooled: Times = {}
    for seed in range(config.seed, config.seed + config.drafts):
        for name, times in time_draft(shape, num_nodes, vocab, seed, config).items():
            pooled.setdefault(name, []).extend(times)
    return {name: median(times) for name, times in pooled.items()}


def forward_ms(num_nodes: int, rounds: int) -> float:
    """Time of one forward of a SmolLM2-135M-sized Llama over N tokens, random weights, bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM  # only this measurement needs it

    shape = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(shape).bfloat16()
    model.eval()
    ids = torch.zeros(1, num_nodes, dtype=torch.int64)
    with torch.inference_mode():
        return median(time_in_turn({"forward": lambda: model(ids, use_cache=False)}, rounds)["forward"])


def print_times(config: VerifyBench) -> None:
    """Every tree at every size, and the forward where it is wanted."""
    print(f"{platform.machine()}, torch {torch.__version__}, {config.threads} thread(s), float32, seed {config.seed}")
    for num_nodes in config.nodes:
        for vocab in config.vocab:
            for shape in config.trees:
                times = time_case(shape, num_nodes, vocab, config)
                print(f"N={num_nodes} V={vocab} {shape}: " + "  ".join(f"{k} {v:.2f} ms" for k, v in times.items()))
                if "hsd" in times:
                    print(f"    hsd is faster by {speed_ups(times)}", flush=True)
        if config.forward:
            print(f"N={num_nodes}: SmolLM2-135M-sized forward in bf16 {forward_ms(num_nodes, config.rounds):.1f} ms")


def speed_ups(times: dict[str, float]) -> str:
    return ", ".join(
        f"{times[name] / times['hsd']:.1f}x than {name}" for name in ("reference", "eagle") if name in times
    )


def verify_flags(argv: Sequence[str] | None) -> VerifyBench:
    default = VerifyBench()
    parser = CommandParser(__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=default.nodes)
    parser.add_argument("--vocab", type=int, nargs="+", default=default.vocab)
    parser.add_argument("--trees", nargs="+", choices=VERIFIERS_BY_TREE, default=default.trees)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--drafts", type=int, default=default.drafts)
    parser.add_argument("--verifiers", nargs="+", choices=list(hsd_verify.VERIFIERS), default=default.verifiers)
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=default.reference)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--forward", action="store_true")
    return VerifyBench(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> None:
    config = verify_flags(argv)
    torch.set_num_threads(config.threads)
    print_times(config)

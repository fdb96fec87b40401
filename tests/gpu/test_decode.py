"""Decoding from prompt to text on an accelerator: drafted text is plain decoding's, and how often the host waits."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from eagle.agreement import chosen_tokens, parting, tie_gap
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.target import Target
from eagle.loading import load_head, load_target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, EagleTree, TreePolicy, sampled
from tests.conftest import needs_gpu
from tests.tiny import tokens_of

PROMPT = "Write a Python function that returns the n-th Fibonacci number."
GREEDY, COUPLED = DecodeOptions(max_new_tokens=48), DecodeOptions(Sampling(1.0), 48, "coupled")
TWO_UNITS = 2**-6  # of bfloat16, for logits of size 1: as far as two right readings of a text are apart, and some more
SYNCHRONISES = "called a synchronizing CUDA operation"
MOST_WAITS = 2  # a round: one for the tree, one for the verdict
ROUNDS = 12


@cache
def pair(accelerator: torch.device, dtype: torch.dtype, compile: str = "off") -> tuple[Target, list[int]]:
    """The packaged target, loaded once for all tests, and a prompt."""
    target = load_target(dtype=dtype, device=accelerator, compile=compile)
    return target, target.tokenizer(PROMPT)["input_ids"]


def session(target: Target, policy: TreePolicy) -> Session:
    return Session(target, EagleDrafter(load_head(None, target).to(target.device), target.embed, policy))


@needs_gpu
@pytest.mark.parametrize("options", [GREEDY, COUPLED], ids=["greedy", "coupled"])
@pytest.mark.parametrize("policy", [AutoTree(8), EagleTree(16)], ids=["auto", "eagle"])
def test_in_float32_the_text_is_plain_decodings(accelerator, policy, options):
    target, ids = pair(accelerator, torch.float32)
    steps = list(session(target, policy).decode(ids, options, seeded(7, accelerator)))
    assert tokens_of(steps) == tokens_of(autoregressive(target, ids, options, seeded(7, accelerator)))
    assert sum(step.num_accepted for step in steps) > 8  # the head is trained: a third of its drafts and more


@needs_gpu
def test_in_bfloat16_texts_part_at_near_ties_only(accelerator):
    target, ids = pair(accelerator, torch.bfloat16)
    drafted = tokens_of(session(target, EagleTree(16)).decode(ids, GREEDY))
    plain = tokens_of(autoregressive(target, ids, GREEDY))
    parted = parting(plain, drafted)
    if parted is not None:
        text = [*ids, *plain[: parted.position]]
        gap = tie_gap(target, text, chosen_tokens(Sampling(), 0, target), parted.expected, parted.found)
        largest = float(target.prefill(torch.tensor(text, device=accelerator), target.new_cache()).logits.abs().max())
        assert abs(gap) <= TWO_UNITS * largest


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[str]]:
    """Where the host waited for the device meanwhile, as torch tells it. A CPU is never waited for."""
    waits: list[str] = []
    if device.type != "cuda":
        yield waits
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield waits
        waits += [f"{one.filename}:{one.lineno}" for one in told if SYNCHRONISES in str(one.message)]
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (AutoTree(8), GREEDY),
        (AutoTree(8), COUPLED),
        (sampled(8, depth=4, max_sampled=3), DecodeOptions(Sampling(1.0), 48, "hsd")),
    ],
    ids=["greedy", "coupled", "hsd"],
)
def test_a_round_waits_twice(accelerator, policy, options, dtype, capsys):
    """The first rounds are left out: kernels are loaded and pinned memory is found there."""
    target, ids = pair(accelerator, dtype)
    steps = session(target, policy).decode(ids, options, seeded(7, accelerator))
    for _ in range(4):
        next(steps)
    rounds = []
    for _ in range(ROUNDS):
        with counted_waits(accelerator) as waits:
            step = next(steps, None)
        if step is None or step.finish is not None:
            break
        rounds.append(waits)
    with capsys.disabled():
        print(f"\nwaits a round: {[len(waits) for waits in rounds]}")
    assert rounds and max(map(len, rounds)) <= MOST_WAITS, rounds


@needs_gpu
@pytest.mark.parametrize("options", [GREEDY, COUPLED], ids=["greedy", "coupled"])
def test_compiled_passes_write_the_same_text_and_wait_no_more(accelerator, options):
    """On a GPU they are recorded, as they are met: waits are counted in an answer that meets nothing new."""
    target, ids = pair(accelerator, torch.float32, "on")
    wanted = tokens_of(autoregressive(pair(accelerator, torch.float32)[0], ids, options, seeded(7, accelerator)))
    for _ in range(2):
        rounds, tokens = [], []
        answer = session(target, AutoTree(8)).decode(ids, options, seeded(7, accelerator))
        while True:
            with counted_waits(accelerator) as waits:
                step = next(answer, None)
            if step is None:
                break
            tokens += step.tokens
            rounds.append(waits)
        assert tokens == wanted
        del answer, step
        gc.collect()  # what was recorded goes to the next session
    assert max(map(len, rounds[4:])) <= MOST_WAITS, rounds


@needs_gpu
def test_the_count_sees_what_waits(accelerator):
    numbers = torch.arange(4.0, device=accelerator)
    with counted_waits(accelerator) as waits:
        float(numbers.sum())
        torch.tensor([1.0]).to(accelerator)
    assert len(waits) == (2 if accelerator.type == "cuda" else 0)

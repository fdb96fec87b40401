"""Prompts read in blocks: what is computed for a text is the same to the last bit, whatever a session has read before.

In bfloat16 the same text read in one pass or in two has other roundings, and a near-tie falls otherwise: a server whose
sessions go on from earlier prompts would give a seed another text under load.
"""

from typing import Any

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.sampling import Sampling
from eagle.trees import EagleTree
from tests.tiny import random_ids, tiny_drafter, tiny_target, tokens_of

BLOCK = 8
PROMPT = random_ids(45, seed=1)
EARLIER = {
    "the same prompt": [PROMPT],
    "its beginning": [PROMPT[:20]],
    "a text that parts from it": [[*PROMPT[:33], *random_ids(30, seed=2)]],
    "one that begins otherwise, then its beginning": [random_ids(60, seed=3), PROMPT[:41]],
    "a whole number of blocks": [PROMPT[: 4 * BLOCK]],
    "a longer one": [[*PROMPT, *random_ids(20, seed=4)]],
}


def session(dtype: torch.dtype, block: int | None = BLOCK) -> Session:
    target = tiny_target()
    drafter = tiny_drafter(target, EagleTree(6, 3, 2))
    target.model.to(dtype)
    drafter.head.to(dtype)
    return Session(target, drafter, block)


def seen(answering: Session, prompt: list[int], temperature: float = 1) -> list[torch.Tensor]:
    """Logits of every tree of an answer, and the trees' tokens."""
    steps = list(answering.decode(prompt, DecodeOptions(Sampling(temperature), 24, seed=5)))
    rounds = [step.round for step in steps[1:]]
    return [steps[0].logits, *(one.logits for one in rounds), *(one.tree.tokens for one in rounds)]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("earlier", EARLIER.values(), ids=EARLIER)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_bit_is_that_of_a_fresh_session(earlier, dtype):
    used = session(dtype)
    for text in earlier:
        seen(used, text)
    assert equal(seen(used, PROMPT), seen(session(dtype), PROMPT))
    assert used.num_reused >= 16 and used.num_reused % BLOCK == 0, "something was kept"


def test_the_next_turn_is_that_of_a_fresh_session():
    """The answer's own keys come from draft trees, with their roundings: they are read again."""
    used = session(torch.bfloat16)
    steps = used.decode(PROMPT, DecodeOptions(Sampling(1), 24, seed=5))
    turn = [*PROMPT, *tokens_of(steps), 3, 4, 5]
    assert equal(seen(used, turn), seen(session(torch.bfloat16), turn))
    assert used.num_reused == len(PROMPT) - len(PROMPT) % BLOCK


def test_an_answer_that_was_left_costs_no_bit():
    used = session(torch.bfloat16)
    steps: Any = used.decode(PROMPT, DecodeOptions(Sampling(1), 24, seed=6))
    for _ in range(4):
        next(steps)
    assert equal(seen(used, PROMPT), seen(session(torch.bfloat16), PROMPT))


def test_without_blocks_there_is_a_difference():
    """So the tests above could fail."""
    used = session(torch.bfloat16, block=None)
    seen(used, PROMPT[:20])
    assert not equal(seen(used, PROMPT), seen(session(torch.bfloat16, block=None), PROMPT))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 45])
def test_tokens_are_those_of_plain_decoding(temperature, length):
    used, options = session(torch.float32), DecodeOptions(Sampling(temperature), 20, "coupled", seed=5)
    seen(used, PROMPT[:30])
    plain = tokens_of(autoregressive(used.target, PROMPT[:length], options))
    assert tokens_of(used.decode(PROMPT[:length], options)) == plain

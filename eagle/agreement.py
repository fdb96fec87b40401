"""Two texts that must be equal token for token: where they part, and how near the tie was.

A tree is scored in another shape than a single token, so kernels may round differently and flip two tokens that are
all but equal: in half precision now and then, in float32 hardly ever. Whatever parts by a large gap is a bug.

Letters: V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eagle.context import Context
from eagle.engine.target import Target
from eagle.judging import COUPLED, ChosenTokens, judge
from eagle.sampling import Sampling, seeded


@dataclass(frozen=True)
class Parting:
    """The first place where two texts are not equal."""

    position: int  # from 0
    expected: int | None  # None: the text ended here
    found: int | None


def parting(expected: Sequence[int], found: Sequence[int]) -> Parting | None:
    """None when the tokens are the same."""
    shorter = min(len(expected), len(found))
    position = next((i for i in range(shorter) if expected[i] != found[i]), shorter)
    ends = [text[position] if position < len(text) else None for text in (expected, found)]
    return None if ends == [None, None] else Parting(position, *ends)


def chosen_tokens(sampling: Sampling, seed: int, target: Target) -> ChosenTokens:
    """What decides the first answer of this seed, whether it is drafted under `coupled` or decoded plainly."""
    judged = judge(sampling, COUPLED, seeded(seed, target.device), target.device)
    assert isinstance(judged, ChosenTokens), "coupled answers, and greedy ones, have no other"
    return judged


def tie_gap(
    target: Target, ids: Sequence[int], judged: ChosenTokens, expected: int, found: int, num_prompt: int | None = None
) -> float:
    """By how much the target prefers one token to another behind `ids`: the difference of `z + T g`.

    z are its logits with bias and penalties, g is the answer's noise, none at temperature 0. Not finite where one of
    them is left out. num_prompt: how many of the ids the prompt holds, for penalties; None: all.
    """
    pair = torch.tensor([expected, found], device=target.device)
    logits = target.prefill(torch.tensor(ids, device=target.device), target.new_cache()).logits.float()  # (1, V)
    context = Context.of(ids, len(ids) if num_prompt is None else num_prompt, target.device)
    logits = judged.sampling.shaped(logits, [context])[0]  # (V,)
    if judged.field is None:
        preferred = logits[pair].double()
    else:
        preferred = judged.sampling.scores(logits)[pair].double() + judged.field.at(len(ids), pair)
        preferred *= judged.sampling.temperature
    return float(preferred[0] - preferred[1])

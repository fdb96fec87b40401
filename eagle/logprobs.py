"""Log-probabilities of emitted tokens, by the model's own law: before bias, penalties, temperature and cuts.

That is vLLM's default (`raw_logprobs`), and does not depend on how the tokens were drawn.

Letters: n tokens, V vocabulary, K most probable tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hsd_verify.transfer import send


@dataclass(frozen=True)
class TokenLogprob:
    """One emitted token."""

    token: int
    logprob: float  # natural logarithm
    rank: int  # 1: the most probable one
    top: tuple[tuple[int, float], ...]  # the K most probable tokens, best first; the emitted one may be none of them


def logprobs_of(tokens: tuple[int, ...], logits: Tensor, num_top: int) -> tuple[TokenLogprob, ...]:
    """One entry for each of n tokens that followed logits (n, V), with the K most probable ones of its place."""
    logs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))  # (n, V)
    own = logs.gather(-1, send(torch.tensor(tokens), logs.device)[:, None])  # (n, 1)
    ranks = (logs > own).sum(-1).tolist()
    best = logs.topk(min(num_top, logs.shape[-1]))  # (n, K)
    tops = [tuple(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    rows = zip(tokens, own[:, 0].tolist(), ranks, tops, strict=True)
    return tuple(TokenLogprob(token, logprob, above + 1, top) for token, logprob, above, top in rows)

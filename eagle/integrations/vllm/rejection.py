"""vLLM's rejection step, decided by `hsd` for all requests at once.

Letters: B requests, M drafted tokens of all of them, K those of the longest draft, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hsd_verify.chains import UNDECIDED, ChainLaws, Chains, chain_laws, walk_chains

PLACEHOLDER = -1  # in vLLM's output: no token here


def sampled_rows(sampling: Any, num_requests: int, device: torch.device) -> Tensor:
    """(B,) bool: the request is drawn and not decoded greedily."""
    if sampling.all_greedy:
        return torch.zeros(num_requests, dtype=torch.bool, device=device)
    temperature: Tensor = sampling.temperature  # (B,)
    return temperature != 0


def laws_of(chains: Chains, target_logits: Tensor) -> ChainLaws:
    """Laws of all chains from logits (M, V) behind temperature, top-k and top-p; of greedy requests they mean nothing.

    In float32 at least, however the engine computes.
    """
    return chain_laws(chains, target_logits.softmax(-1, dtype=torch.promote_types(target_logits.dtype, torch.float32)))


def decide(
    chains: Chains, laws: ChainLaws | None, target_logits: Tensor, sampling: Any, num_drafted: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Accepted tokens (B,) and the token after them (B,), `UNDECIDED` behind whole drafts. laws None: all are greedy.

    At temperature 0 a draft is followed while it is the argmax, whatever its law.
    """
    if laws is None:
        return walk_chains(chains, target_logits.argmax(-1))
    drawn = laws.draw(*uniforms_of(num_drafted, chains.longest, sampling.generators, target_logits.device))
    if sampling.all_random:
        return drawn
    walked = walk_chains(chains, target_logits.argmax(-1))
    is_drawn = sampled_rows(sampling, len(num_drafted), target_logits.device)
    return torch.where(is_drawn, drawn[0], walked[0]), torch.where(is_drawn, drawn[1], walked[1])


def uniforms_of(
    num_drafted: Sequence[int], longest: int, generators: Mapping[int, torch.Generator], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Numbers for nodes (B, K + 1) and for tokens (B,).

    A request with a seed takes as many from its own generator as it has nodes, and one more: what its neighbours draft,
    and how much, changes none of them. A request without a draft takes none.
    """
    at_nodes = torch.rand(len(num_drafted), longest + 1, dtype=torch.float64, device=device)
    at_token = torch.rand(len(num_drafted), dtype=torch.float64, device=device)
    for row, generator in generators.items():
        if num_drafted[row]:
            own = torch.rand(num_drafted[row] + 2, dtype=torch.float64, device=device, generator=generator)
            at_nodes[row, : num_drafted[row] + 1] = own[:-1]
            at_token[row] = own[-1]
    return at_nodes, at_token


def output_of(chains: Chains, accepted: Tensor, token: Tensor, bonus_token_ids: Tensor) -> Tensor:
    """(B, K + 1) int32 as vLLM has it: accepted tokens, the one after them, placeholders.

    bonus_token_ids (B, 1) is what the engine drew behind each whole draft.
    """
    last = torch.where(token == UNDECIDED, bonus_token_ids[:, 0].long(), token)  # (B,)
    output = torch.cat([chains.next_tokens, torch.zeros_like(last)[:, None]], dim=1)  # (B, K + 1)
    places = torch.arange(output.shape[1], device=output.device)
    output = torch.where(places < accepted[:, None], output, PLACEHOLDER)
    return output.scatter_(1, accepted[:, None], last[:, None]).int()

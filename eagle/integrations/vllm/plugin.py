"""What vLLM calls in each of its processes, and the three functions of it that are replaced.

vllm.v1.sample.rejection_sampler.rejection_sample               by `hsd` (verifier hsd), or watched (tokenwise)
vllm.v1.sample.rejection_sampler.expand_batch_to_tokens         by one that is right on a CPU too
vllm.v1.spec_decode.llm_base_proposer.compute_probs_and_sample_next_token   draws by the request's seed
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from eagle.integrations.vllm.expansion import expand_batch_to_tokens
from eagle.integrations.vllm.rejection import PLACEHOLDER, decide, laws_of, output_of, sampled_rows
from eagle.integrations.vllm.seeded_drafts import seeded_drafts
from eagle.integrations.vllm.settings import HSD, OFF, VERIFIER, PluginSettings
from eagle.integrations.vllm.tau_record import TauRecord
from hsd_verify.chains import ChainLaws, Chains, tokenwise_stops

KNOWN_VERSIONS = ("0.32.0",)  # those whose rejection step was read and run
SAMPLER, PROPOSER = "vllm.v1.sample.rejection_sampler", "vllm.v1.spec_decode.llm_base_proposer"
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
PATCHED = "eagle_hsd_verifier"  # on a module of vLLM's that was seen to
log = logging.getLogger("vllm.eagle_hsd")

RejectionSample = Callable[..., Tensor]


def register() -> None:
    """Replace what has to be, once a process; without a word from the environment nothing is imported or changed.

    Raises ValueError for an unknown verifier, for a vLLM that this was not written for, and where the second model
    runner is asked for, whose rejection step is another one.
    """
    settings = PluginSettings.from_environment()
    if settings.verifier == OFF:
        return
    check_version(str(import_module("vllm").__version__))
    keep_first_runner()
    sampler, proposer = import_module(SAMPLER), import_module(PROPOSER)
    if hasattr(sampler, PATCHED):
        return
    setattr(sampler, PATCHED, settings.verifier)
    sampler.rejection_sample = rejection_sample_for(settings, sampler.rejection_sample)  # type: ignore[attr-defined]
    sampler.expand_batch_to_tokens = expand_batch_to_tokens  # type: ignore[attr-defined]
    proposer.compute_probs_and_sample_next_token = seeded_drafts(  # type: ignore[attr-defined]
        proposer.compute_probs_and_sample_next_token
    )
    log.info("eagle-hsd: drafts are verified by %s", settings.verifier)


def check_version(version: str) -> None:
    """Raises ValueError for a version whose rejection step is not known to be the one that is replaced."""
    if version.partition("+")[0] not in KNOWN_VERSIONS:
        known = ", ".join(KNOWN_VERSIONS)
        raise ValueError(f"vLLM is {version}, the plug-in knows {known}: install one of them, or unset {VERIFIER}")


def keep_first_runner() -> None:
    """Where it can choose (with Triton) vLLM takes its second model runner, which none of this reaches."""
    if os.environ.setdefault(RUNNER, "0") not in ("0", "false", "False"):
        raise ValueError(
            f"{RUNNER} is {os.environ[RUNNER]}, the plug-in is for the first runner: set it to 0, or unset {VERIFIER} "
            'and give the second one "rejection_sample_method": "block", which is the same rule'
        )


def rejection_sample_for(settings: PluginSettings, original: RejectionSample) -> RejectionSample:
    """vLLM's `rejection_sample` with our rule or, for `tokenwise`, its own; with a record where one is wanted."""
    record = TauRecord(settings.tau_directory, settings.verifier) if settings.tau_directory else None
    if record is not None:
        atexit.register(record.write)

    def rejection_sample(
        draft_token_ids: Tensor,  # (M,)
        num_draft_tokens: Sequence[int],  # B
        max_spec_len: int,
        cu_num_draft_tokens: Tensor,  # (B,)
        draft_probs: Tensor | None,  # (M, V)
        target_logits: Tensor,  # (M, V)
        bonus_token_ids: Tensor,  # (B, 1)
        sampling_metadata: Any,
        synthetic_mode: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        given = (draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs, target_logits)
        if synthetic_mode:
            return original(*given, bonus_token_ids, sampling_metadata, synthetic_mode, *args, **kwargs)
        if max_spec_len == 0:  # a round in which nobody's draft was left
            return bonus_token_ids.int()
        chains = Chains(draft_token_ids, cu_num_draft_tokens, max_spec_len, draft_probs)
        has_law = not sampling_metadata.all_greedy and (settings.verifier == HSD or record is not None)
        laws = laws_of(chains, target_logits) if has_law else None
        if settings.verifier == HSD:
            accepted, token = decide(chains, laws, target_logits, sampling_metadata, num_draft_tokens)
            output = output_of(chains, accepted, token, bonus_token_ids)
        else:
            output = original(*given, bonus_token_ids, sampling_metadata, synthetic_mode, *args, **kwargs)
        if record is not None and laws is not None:
            _note(record, laws, output, sampled_rows(sampling_metadata, len(num_draft_tokens), output.device))
        return output

    return rejection_sample


def _note(record: TauRecord, laws: ChainLaws, output: Tensor, counted: Tensor) -> None:
    accepted = (output != PLACEHOLDER).sum(1) - 1  # (B,)
    stops = {"tokenwise": tokenwise_stops(laws.chains, laws.target_probs), "hsd": laws.stop}
    record.add(counted, laws.chains.lengths, accepted, stops)

"""What vLLM calls in each of its processes, and the four functions of it that are replaced.

vllm.v1.sample.rejection_sampler.rejection_sample               by `hsd` (verifier hsd), or watched (tokenwise)
vllm.v1.sample.rejection_sampler.expand_batch_to_tokens         by one that is right on a CPU too
vllm.v1.spec_decode.llm_base_proposer.compute_probs_and_sample_next_token   draws by the request's seed
vllm.v1.worker.gpu_model_runner.GPUModelRunner.sample_tokens    leaves seeds alone while a prompt is read in pieces
"""

from __future__ import annotations

import logging
import os
from importlib import import_module

from eagle.integrations.vllm.chunked_prompts import keeping_seeds
from eagle.integrations.vllm.expansion import expand_batch_to_tokens
from eagle.integrations.vllm.rejection_step import RejectionStep
from eagle.integrations.vllm.seeded_drafts import seeded_drafts
from eagle.integrations.vllm.settings import OFF, VERIFIER, PluginSettings

KNOWN_VERSIONS = ("0.32.0",)  # those whose rejection step was read and run
SAMPLER, PROPOSER = "vllm.v1.sample.rejection_sampler", "vllm.v1.spec_decode.llm_base_proposer"
MODEL_RUNNER = "vllm.v1.worker.gpu_model_runner"  # the CPU's is a kind of it
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
PATCHED = "eagle_hsd_verifier"  # on a module of vLLM's that was seen to
log = logging.getLogger("vllm.eagle_hsd")


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
    sampler.rejection_sample = RejectionStep(settings, sampler.rejection_sample)  # type: ignore[attr-defined]
    sampler.expand_batch_to_tokens = expand_batch_to_tokens  # type: ignore[attr-defined]
    proposer.compute_probs_and_sample_next_token = seeded_drafts(  # type: ignore[attr-defined]
        proposer.compute_probs_and_sample_next_token
    )
    runner = import_module(MODEL_RUNNER).GPUModelRunner
    runner.sample_tokens = keeping_seeds(runner.sample_tokens)
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

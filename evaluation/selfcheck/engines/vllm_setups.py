"""The ways in which vLLM is opened: which head in which layout, and the plug-in's verifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle.integrations.vllm.settings import HSD, OFF, TAU, TOKENWISE, VERIFIER
from evaluation.selfcheck.engines.asked import EngineSetup

DRAFTED = 4  # tokens a round
COMMON = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_seqs": 64,
    "block_size": 32,  # of the key-value cache, the least there is: texts behind one prompt share what fits in blocks
}


PIECES = {"max_num_batched_tokens": 512}  # of prompts that come together: some are then read in several


@dataclass(frozen=True)
class Models:
    """Directories on this machine."""

    target: str
    flat: str  # the head as it is shipped
    nested: str  # the same, in speculators' layout


def setups(models: Models, directory: Path) -> dict[str, EngineSetup]:
    """By name. `tau` of the plug-in's runs goes to a folder of that name."""

    def drafting(name: str, head: str, verifier: str, **more: str) -> EngineSetup:
        spec = {"method": "eagle3", "model": head, "num_speculative_tokens": DRAFTED, **more}
        pieces = {} if verifier == OFF else PIECES  # where vLLM alone ends if such a prompt comes with a seed
        return _setup(name, {"model": models.target, "speculative_config": spec, **pieces}, verifier, directory)

    drawn = {"draft_sample_method": "probabilistic"}
    return {
        one.name: one
        for one in (
            drafting("flat", models.flat, OFF),
            drafting("speculators", models.nested, OFF),
            _setup("head-alone", {"model": models.nested}, OFF, directory),
            drafting("tokenwise-drawn", models.flat, TOKENWISE, **drawn),
            drafting("hsd-drawn", models.flat, HSD, **drawn),
            drafting("hsd-placed", models.flat, HSD),
            _setup("plain", {"model": models.target}, OFF, directory),
        )
    }


def _setup(name: str, options: Mapping[str, Any], verifier: str, directory: Path) -> EngineSetup:
    environment = {VERIFIER: verifier, TAU: str(directory / "tau" / name)}
    return EngineSetup(name, {**COMMON, "disable_log_stats": False, **options}, environment)

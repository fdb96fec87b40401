"""What the environment asks of the plug-in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERIFIER, TAU = "EAGLE_HSD_VLLM_VERIFIER", "EAGLE_HSD_VLLM_TAU"
OFF, TOKENWISE, HSD = "off", "tokenwise", "hsd"


@dataclass(frozen=True)
class PluginSettings:
    """Raises ValueError at construction for a verifier that there is not."""

    verifier: str = OFF
    tau_directory: Path | None = None  # None: expected tau is not worked out

    def __post_init__(self) -> None:
        if self.verifier not in (OFF, TOKENWISE, HSD):
            raise ValueError(f"{VERIFIER} is '{self.verifier}': set it to {HSD}, {TOKENWISE} or {OFF}, or unset it")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> PluginSettings:
        directory = environment.get(TAU)
        return cls(environment.get(VERIFIER) or OFF, Path(directory).expanduser() if directory else None)

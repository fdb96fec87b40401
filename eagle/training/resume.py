"""What resuming needs: `states/step-00000200/` with weights, optimizer, random state and the place in the data.

A state becomes visible by one rename, when it is whole. Best and last heads, ready to use, stand beside `states/`.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from eagle.files import claim, read_json, write_json

PROGRESS = "progress.json"


@dataclass
class RunProgress:
    """How far a run has come. The place in the data is `step`: the plan of batches is a function of the data."""

    step: int = 0  # optimizer steps done
    tokens_seen: int = 0  # of conversations, without padding
    loss_tokens_seen: int = 0
    elapsed_s: float = 0.0
    best_overlap: float = -1.0
    best_step: int = 0


class States:
    """The rotated states of one run."""

    def __init__(self, output: Path, accelerator: Accelerator, keep: int):
        self._directory, self._accelerator, self._keep = output / "states", accelerator, keep

    def latest(self) -> Path | None:
        return max(self._directory.glob("step-*"), default=None)  # the names sort by step

    def save(self, progress: RunProgress) -> None:
        """Write a state and remove the oldest ones. Called by all processes together."""
        final = self._directory / f"step-{progress.step:08d}"
        temporary = self._directory / f".{final.name}.tmp"
        if self._accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(temporary))
        self._accelerator.wait_for_everyone()  # every process writes a part
        if self._accelerator.is_main_process:
            write_json(temporary / PROGRESS, asdict(progress))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            for old in sorted(self._directory.glob("step-*"))[: -self._keep]:
                shutil.rmtree(old)
        self._accelerator.wait_for_everyone()

    def restore(self) -> RunProgress:
        """Load the newest state into what the accelerator prepared; a fresh `RunProgress` when there is none."""
        latest = self.latest()
        if latest is None:
            return RunProgress()
        self._accelerator.load_state(str(latest))
        return RunProgress(**read_json(latest / PROGRESS))


def check_same_run(output: Path, description: dict[str, Any]) -> None:
    """Remember what a run was started with, or raise ValueError when it was started with something else."""
    claim(output / "run.json", description, "give another output, or initial_head to go on from its weights")

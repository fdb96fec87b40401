"""What resuming needs: `states/step-00000200/` with weights, optimizer and the place in the data.

Nothing random is stored: what chance decides is a function of seed and step. Nor is how many processes there were. A
state becomes visible by one rename, when it is whole. Best and last heads, ready to use, stand beside `states/`. A
state that was damaged later is set aside, and the run goes on from the one before it.
"""

import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn

from eagle.files import check_same, naming, read_json, write_json
from eagle.options import build
from eagle.parallel.whole_states import load_whole, save_whole
from eagle.whole import damage, list_files

PROGRESS, DAMAGED = "progress.json", "damaged-"
OF_ACCELERATE = "random_states_0.pkl"  # in states of earlier versions, which accelerate wrote
# what torch, safetensors and pickle raise for a file they cannot read
FILE_ERRORS = (SafetensorError, RuntimeError, OSError, ValueError, LookupError, EOFError, pickle.UnpicklingError)
PLACES = ("output", "data", "prepare", "target", "vocabulary", "initial_head", "held_out_data", "target_name")


@dataclass
class RunProgress:
    """How far a run has come. The place in the data is `step`: the plan of batches is a function of the data."""

    step: int = 0  # optimizer steps done
    tokens_seen: int = 0  # of conversations, without padding
    loss_tokens_seen: int = 0
    elapsed_s: float = 0.0
    best_overlap: float = -1.0
    best_step: int = 0
    skipped_steps: int = 0  # of `step`, those whose gradient was not finite


class States:
    """The rotated states of one run."""

    def __init__(
        self,
        output: Path,
        accelerator: Accelerator,
        keep: int,
        module: nn.Module,
        optimizers: Sequence[AcceleratedOptimizer],
    ):
        self._directory, self._accelerator, self._keep = output / "states", accelerator, keep
        self._module, self._optimizers = module, [prepared.optimizer for prepared in optimizers]

    def latest(self) -> Path | None:
        return max(self._directory.glob("step-*"), default=None)  # the names sort by step

    def save(self, progress: RunProgress) -> None:
        """Write a state and remove the oldest ones. Called by all processes together."""
        final = self._directory / f"step-{progress.step:08d}"
        temporary = self._directory / f".{final.name}.tmp"
        if self._accelerator.is_main_process:
            self._remove_unfinished()
            temporary.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        with naming(final):
            save_whole(temporary, self._module, self._optimizers, self._accelerator.is_main_process)
        if self._accelerator.is_main_process:
            write_json(temporary / PROGRESS, asdict(progress))
            list_files(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            for old in sorted(self._directory.glob("step-*"))[: -self._keep]:
                shutil.rmtree(old)
        self._accelerator.wait_for_everyone()

    def restore(self) -> RunProgress:
        """Load the newest whole state into module and optimizers; a fresh `RunProgress` when there is none.

        Raises ValueError that names them when there are states and all are damaged.
        """
        chosen = [str(self._newest_whole() or "") if self._accelerator.is_main_process else ""]
        if self._accelerator.num_processes > 1:
            broadcast_object_list(chosen)
        if not chosen[0]:
            return RunProgress()
        state = Path(chosen[0])
        try:
            if (state / OF_ACCELERATE).exists():
                self._accelerator.load_state(chosen[0])
            else:
                load_whole(state, self._module, self._optimizers)
            return build(RunProgress, read_json(state / PROGRESS))
        except FILE_ERRORS as error:
            raise ValueError(f"{state} cannot be loaded ({str(error)[:300]}): {_remedy(state.parent)}") from error

    def _newest_whole(self) -> Path | None:
        """On the main process: the state to go on from, newer damaged ones set aside with a line that says so."""
        self._remove_unfinished()
        damaged: dict[Path, str] = {}
        for state in sorted(self._directory.glob("step-*"), reverse=True):
            reason = damage(state) or _unreadable_progress(state)
            if reason is None:
                self._set_aside(damaged, state)
                return state
            damaged[state] = reason
        if damaged:
            told = "; ".join(f"{state}: {reason}" for state, reason in damaged.items())
            raise ValueError(f"every state of the run is damaged ({told}): {_remedy(self._directory)}")
        return None

    def _set_aside(self, damaged: Mapping[Path, str], whole: Path) -> None:
        for state, reason in damaged.items():
            aside = state.with_name(DAMAGED + state.name)
            shutil.rmtree(aside, ignore_errors=True)
            state.rename(aside)
            self._accelerator.print(f"{state} is damaged ({reason}), set aside as {aside.name}: back to {whole.name}")

    def _remove_unfinished(self) -> None:
        """What a run that was killed while it saved has left."""
        for unfinished in self._directory.glob(".step-*.tmp"):
            shutil.rmtree(unfinished)


def _unreadable_progress(state: Path) -> str | None:
    try:
        build(RunProgress, read_json(state / PROGRESS))
    except (ValueError, OSError):
        return f"{PROGRESS} cannot be read"
    return None


def _remedy(directory: Path) -> str:
    return f"restore a state from a copy, or remove {directory} to train from the start"


def check_same_run(output: Path, description: Mapping[str, Any]) -> None:
    """Remember what a run was started with, or raise ValueError when it was started with something else.

    Directories may be moved or named otherwise: what is in them is compared, by the digests of the description.
    """
    path = output / "run.json"
    if not path.is_file():
        write_json(path, dict(description))
    known = read_json(path, "remove it where you know that the run is the same one, or give another output")
    if not isinstance(known, dict):
        raise ValueError(f"{path} holds no table of options: remove it where you know that the run is the same one")
    digests = {name for name in description if name.endswith("_sha256") and name not in known}  # of an older version
    known = {name: value for name, value in known.items() if name not in PLACES}
    wanted = {name: value for name, value in description.items() if name not in digests and name not in PLACES}
    check_same(output, known, wanted, "give another output, or initial_head to go on from its weights")

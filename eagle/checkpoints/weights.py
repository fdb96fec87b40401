"""The files of a checkpoint: one of weights or an index of shards, safetensors or `torch.save`, and what is none.

Everything that comes from a user's disk is refused in one line that names the file: what it is instead (a git-lfs
pointer, a web page, a pickle under another name), what is damaged, and what to do.
"""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eagle.checkpoints.tensors import State

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
FIT = "drafting.json"  # what was measured of the head
INDEX, SHARDS = ".index.json", ("model*.safetensors", "pytorch_model*.bin")
FETCHED = [CONFIG, FIT, *SHARDS, f"*{INDEX}"]
NAMES_SHOWN = 10
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how torch.save's files begin
FOREIGN = {
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: run `git lfs pull` in its directory",
    b"<!doctype html": "a web page: what was downloaded is not the file, fetch it again",
    b"<html": "a web page: what was downloaded is not the file, fetch it again",
    b"GGUF": "a GGUF file: draft heads are read from safetensors",
}


def local_directory(source: str | Path) -> Path:
    """The directory, or the fetched files of a Hugging Face id. Raises FileNotFoundError, ValueError for a file."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ValueError(f"'{source}' is a file: name the directory that holds {CONFIG} and the weights")
    try:
        return Path(snapshot_download(str(source), allow_patterns=FETCHED))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no draft head at '{source}': neither a directory nor a Hugging Face id that can be fetched "
            f"({first_line(error)})"
        ) from error


def read_tensors(directory: Path) -> State:
    """All tensors of a checkpoint, on the CPU. Raises FileNotFoundError where there is none, ValueError as above."""
    for name in (WEIGHTS, OLD_WEIGHTS):
        if (directory / name).is_file():
            return read_file(directory / name)
        if (directory / f"{name}{INDEX}").is_file():
            return _read_shards(directory / f"{name}{INDEX}")
    raise _no_head(directory)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError that names the file, FileNotFoundError."""
    if not path.is_file():
        raise _no_head(path.parent)
    _refuse_foreign(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({first_line(error)}): correct it, or fetch it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected an object {{...}}: fetch it again")
    return value


def read_file(path: Path) -> State:
    """The tensors of one file."""
    _refuse_foreign(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds no plain names and tensors, as a state_dict does: export the head's state_dict")
    return {str(name): tensor.detach() for name, tensor in state.items()}


def first_line(error: BaseException) -> str:
    """An error in one line: some libraries write paragraphs."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read_safetensors(path: Path) -> State:
    if _is_pickle(path):
        raise ValueError(f"{path} is a pickle (torch.save), no safetensors file: name it {OLD_WEIGHTS}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file, it was cut short or damaged ({first_line(error)}): fetch it again"
        ) from None


def _read_pickle(path: Path) -> Any:
    if not _is_pickle(path):
        raise ValueError(f"{path} is no file of torch.save: a safetensors file is named {WEIGHTS}, else fetch it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or a pickle that holds more than tensors and is not run ({first_line(error)}): "
            "fetch it again, or ask its author for safetensors"
        ) from None
    except Exception as error:  # a damaged pickle is a damaged program: it can end in any error
        raise ValueError(f"{path} was cut short or damaged ({first_line(error)}): fetch it again") from None


def _read_shards(index: Path) -> State:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_file_name, places.values())):
        raise ValueError(f"{index} has no weight_map from tensors to files beside it: fetch it again")
    state: State = {}
    for name in dict.fromkeys(places.values()):
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing, {index.name} names it: fetch all shards")
        state |= read_file(index.parent / name)
    if lost := sorted(places.keys() - state.keys()):
        raise ValueError(
            f"{index} names {', '.join(lost[:NAMES_SHOWN])}, which its files do not hold: fetch them again"
        )
    return state


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _refuse_foreign(path: Path) -> None:
    begin = _begins(path).lstrip(b" \r\n\t")
    for prefix, told in FOREIGN.items():
        if begin.lower().startswith(prefix.lower()):
            raise ValueError(f"{path} is {told}")
    if not begin:
        raise ValueError(f"{path} is empty: fetch it again")


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _is_pickle(path: Path) -> bool:
    """By content. Safetensors begin with the length of a header, which can be any bytes, and the header's brace."""
    begin = _begins(path)
    return begin.startswith(PICKLES) and begin[8:9] != b"{"


def _no_head(directory: Path) -> FileNotFoundError:
    found = ", ".join(sorted(path.name for path in directory.iterdir())[:NAMES_SHOWN]) or "nothing"
    inner = next(_heads_inside(directory), None)
    hint = f"; '{inner}' holds one" if inner else ""
    return FileNotFoundError(
        f"no draft head in {directory}: it must hold {CONFIG} and {WEIGHTS} (or {OLD_WEIGHTS}, or the index of shards)"
        f"{hint}; found {found}"
    )


def _heads_inside(directory: Path) -> Iterator[Path]:
    """Where a training run keeps its heads, the best first."""
    return (directory / name for name in ("best", "last") if (directory / name / CONFIG).is_file())

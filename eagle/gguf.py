"""GGUF files as directories of safetensors: converted once, kept in the user's cache, converted again when damaged."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eagle.files import cache_dir, naming, read_json, remove_leftovers
from eagle.model_files import check_files, load_checked
from eagle.packages import need
from eagle.whole import damage, list_files

MAGIC = b"GGUF"


def convert_gguf(path: Path) -> Path:
    """The GGUF file as a directory of safetensors, converted once and kept in the cache.

    The directory appears in one step: an interrupted conversion leaves nothing that a later run could mistake for it.
    Raises ValueError for a file that is damaged or of no known architecture, OSError where the cache cannot be written.
    """
    status = path.stat()
    key = hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    directory = cache_dir() / "models" / f"{path.stem}-{key}"
    if directory.is_dir():
        problem = what_is_wrong(directory)
        if problem is None:
            return directory
        warnings.warn(f"the converted model in {directory} is damaged ({problem}): converting again", stacklevel=2)
    _convert(path, directory)
    return directory


def find_converted(stem: str) -> Path | None:
    """The newest whole conversion of a GGUF file of this name in the cache, for when the file itself is gone."""
    found = sorted(
        (cache_dir() / "models").glob(f"{stem}-*"), key=lambda directory: directory.stat().st_mtime, reverse=True
    )
    return next((directory for directory in found if directory.is_dir() and what_is_wrong(directory) is None), None)


def what_is_wrong(directory: Path) -> str | None:
    """The first thing that is wrong with a converted model; None where nothing is."""
    if not any(directory.glob("*.safetensors")):
        return "it has no weights"
    try:
        check_files(directory)
        for name in ("config.json", "tokenizer.json"):
            read_json(directory / name)
    except (ValueError, OSError) as error:
        return str(error)
    return damage(directory, contents=False)


def _convert(path: Path, directory: Path) -> None:
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    with _in_cache():
        directory.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory.parent)
        temporary.mkdir()
    try:
        _save_converted(path, temporary)
        with _in_cache():
            list_files(temporary)
            _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _in_cache() -> Iterator[None]:
    try:
        with naming(cache_dir()):
            yield
    except OSError as error:
        raise OSError(f"the cache cannot be written ({error}): set EAGLE_HSD_CACHE to another directory") from error


def _publish(temporary: Path, directory: Path) -> None:
    """Put the new conversion in place of a damaged one, or of none."""
    if directory.is_dir() and what_is_wrong(directory) is not None:
        shutil.rmtree(directory, ignore_errors=True)
    try:
        temporary.replace(directory)
    except OSError:  # another process was faster: its conversion is as good
        if not directory.is_dir():
            raise


def _save_converted(path: Path, directory: Path) -> None:
    need("gguf")  # else transformers asks for it in six lines
    model, tokenizer = _read(path)
    if hasattr(model.config, "quantization_config"):  # transformers 5.x sets it, 4.57 does not
        del model.config.quantization_config  # save_pretrained refuses a model flagged as GGUF-quantised
    model.hf_quantizer = None
    model.is_quantized = False
    with _in_cache():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _read(path: Path) -> tuple[Any, Any]:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
    try:
        return load_checked(str(path), str(path.parent), gguf_file=path.name, dtype=torch.float32)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}; fetch {path.name} again if it is cut, or name a directory of safetensors"
        ) from error

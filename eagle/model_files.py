"""Models from transformers, held to what their files say: nothing is made up for what is missing or damaged.

transformers fills tensors that a checkpoint lacks with random numbers and says so in a table that scrolls away; for a
damaged file every library under it has errors of its own. Here each is one line that names the file and the remedy.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging

from eagle.files import read_json

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
LFS_POINTER = b"version https://git-lfs"
REMEDY = "fetch or save the model again"
NUMBERS = ("F", "BF")  # how safetensors' names of floating types begin
NAMES_SHOWN = 3


def load_checked(name: str, source: str, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a directory or a Hugging Face id; `options` are those of `from_pretrained`.

    Raises FileNotFoundError when there is no such model; ValueError when it is no causal language model, when a file is
    damaged, when tensors are missing or of another size, and when the tokenizer cannot be read.
    """
    if Path(source).is_dir() and "gguf_file" not in options:
        check_files(Path(source))
    with _named(name, "cannot be loaded as a causal language model"), _quiet():
        loaded: Any = _kind(source, options).from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    model, report = loaded
    check_report(name, model, report)
    shared = {key: options[key] for key in ("revision", "trust_remote_code", "gguf_file") if key in options}
    with _named(name, "has no tokenizer that can be read"):
        return model, AutoTokenizer.from_pretrained(source, **shared)


def load_empty(name: str, source: str, **options: Any) -> tuple[Any, Any]:
    """The same without reading or holding weights. Raises as `load_checked`."""
    revision = {} if options.get("revision") is None else {"revision": options["revision"]}
    with _named(name, "cannot be loaded as a causal language model"), _quiet(), torch.device("meta"):
        kind = _kind(source, options)
        config = AutoConfig.from_pretrained(source, **options)
        model = kind.from_config(config, trust_remote_code=options.get("trust_remote_code", False))
        with suppress(OSError):  # not every model has one
            model.generation_config = GenerationConfig.from_pretrained(source, **revision)
    with _named(name, "has no tokenizer that can be read"):
        return model, AutoTokenizer.from_pretrained(source, **options)


def read_config(name: str, source: str, **options: Any) -> Any:
    """The configuration of a directory or a Hugging Face id. Raises as `load_checked`."""
    with _named(name, "cannot be loaded as a causal language model"), _quiet():
        return AutoConfig.from_pretrained(source, **options)


def _kind(source: str, options: Mapping[str, Any]) -> Any:
    """The class of causal language models, or of those that read images too and hold one."""
    told = {key: options[key] for key in ("revision", "trust_remote_code", "gguf_file") if key in options}
    config = AutoConfig.from_pretrained(source, **told)
    kinds: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText)
    own_code = getattr(config, "auto_map", None) or {}
    fitting = (kind for kind in kinds if type(config) in kind._model_mapping or kind.__name__ in own_code)
    return next(fitting, AutoModelForCausalLM)


def check_files(directory: Path) -> None:
    """Raises ValueError that names the first file of a model on disk that is missing, damaged or of another kind."""
    config = _read_table(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    index, whole = directory / INDEX, directory / WEIGHTS
    shards = sorted(set(_weight_map(index).values())) if index.is_file() and not whole.is_file() else []
    for path in [directory / shard for shard in shards] or ([whole] if whole.is_file() else []):
        check_tensors(path, is_quantised="quantization_config" in config)


def check_tensors(path: Path, is_quantised: bool = False) -> None:
    """Raises ValueError for a safetensors file that is missing, cut or a pointer, and for weights of no numbers."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, {INDEX} names it: {REMEDY}")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` there")
    try:
        with safe_open(path, framework="pt") as tensors:
            kinds = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): {REMEDY}") from None
    wrong = [f"{name} ({kind})" for name, kind in kinds.items() if _is_weight(name) and not kind.startswith(NUMBERS)]
    if wrong and not is_quantised:
        raise ValueError(f"{path} holds weights that are no floating numbers, as {_some(wrong)}: {REMEDY}")


def check_report(name: str, model: Any, report: Mapping[str, Any]) -> None:
    """Raises ValueError for tensors that transformers had to make up; warns of those it did not use."""
    if sizes := list(report.get("mismatched_keys") or ()):
        told = [" ".join([str(key), *(f"{tuple(shape)}" for shape in shapes)]) for key, *shapes in sizes]
        raise ValueError(f"'{name}' holds tensors of other sizes than config.json says, as {_some(told)}: {REMEDY}")
    if missing := sorted(set(report.get("missing_keys") or ()) - set(_tied(model))):
        raise ValueError(f"'{name}' lacks {len(missing)} tensors, as {_some(missing)}: {REMEDY}")
    if unused := sorted(report.get("unexpected_keys") or ()):
        warnings.warn(f"'{name}' holds {len(unused)} tensors that are not used, as {_some(unused)}", stacklevel=3)


def _tied(model: Any) -> Iterator[str]:
    """The parameters that share memory with an earlier one, and need no tensor of their own."""
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            yield name
        seen.add(id(parameter))


def _weight_map(index: Path) -> dict[str, str]:
    names = _read_table(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ValueError(f"{index} names no files of tensors: {REMEDY}")
    return names


def _read_table(path: Path) -> dict[str, Any]:
    values = read_json(path, REMEDY)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no table of fields: {REMEDY}")
    return values


def _is_weight(name: str) -> bool:
    return name.endswith(".weight")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMES_SHOWN]) + (", .." if len(names) > NAMES_SHOWN else "")


@contextmanager
def _named(name: str, told: str) -> Iterator[None]:
    """Whatever a library finds wrong with a model's files is one line about that model."""
    try:
        yield
    except (MemoryError, ModuleNotFoundError, torch.OutOfMemoryError):
        raise  # nothing of the model's
    except OSError as error:
        raise FileNotFoundError(
            f"no model '{name}': neither a directory with weights and tokenizer nor a Hugging Face id that can be "
            f"fetched ({first_line(error)})"
        ) from error
    except Exception as error:  # of transformers, tokenizers, torch, pickle: a garbled file raises anything
        raise ValueError(f"'{name}' {told}: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of missing tensors, which is told in one line."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:300] if isinstance(error, ValueError | OSError | RuntimeError) and lines[0] else repr(error)[:300]

"""Targets and heads by name: the embedded default, a GGUF file, a local directory or a Hugging Face id."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from eagle.checkpoints import flat
from eagle.drafters.head import DraftHead
from eagle.engine.packing import pack
from eagle.engine.target import Target
from eagle.load_options import quantization_config
from eagle.packages import SMOLLM2, need

DEFAULT_TARGET = "SmolLM2-135M-Instruct"
SHIPPED_HEAD = Path(__file__).parent / "heads" / "smollm2-135m-instruct"


def cache_dir() -> Path:
    """Where converted models and measurements are kept: `EAGLE_HSD_CACHE`, or the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EAGLE_HSD_CACHE") or Path(base) / "eagle-hsd")


def choose_device() -> torch.device:
    """The first accelerator, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_device(name: torch.device | str) -> torch.device:
    """Raises ValueError for a name torch does not know, and for a device that this build or this machine has not."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}': {_first_line(error)}") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"device '{name}' cannot be used: {_first_line(error)}; choose another --device, such as cpu"
        ) from None
    if device.type == "meta":
        raise ValueError("device 'meta' holds no numbers: choose another --device, such as cpu")
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float16 on an accelerator and float32 on a CPU.

    On a CPU with AVX512-BF16 or AMX a pass over 8 tree nodes costs little more than one over a single token.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = _cpu_capabilities()
    return torch.bfloat16 if native.get("avx512_bf16") or native.get("amx_bf16") else torch.float32


def _cpu_capabilities() -> dict[str, bool]:
    query = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10 and newer
    if query is not None:
        return dict(query())
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported(), "amx_bf16": torch.cpu._is_amx_tile_supported()}


def load_target(
    source: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    *,
    device_map: str | dict[str, Any] | None = None,
    quantization: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Target:
    """A target from a Hugging Face id, a directory or a GGUF file; None: the embedded SmolLM2-135M-Instruct.

    dtype and device default to `choose_dtype` and `choose_device`, attn_implementation to `sdpa` where the
    architecture has it and to `eager` else. Of a model that also reads images or sound the text part is used. Options
    after them as in `LoadOptions`. Raises FileNotFoundError when there is no such model, ValueError when it is not a
    causal language model, for a device that cannot be used and for a quantisation whose package is missing.
    """
    device = find_device(device) if device else choose_device()
    name = str(source) if source else DEFAULT_TARGET
    directory = convert_gguf(SMOLLM2.path()) if source is None else _as_directory(source)
    dtype = dtype or choose_dtype(device)
    told: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if quantization is not None:
        told |= {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": device}}
    if device_map is not None:
        told["device_map"] = device_map
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model = _load_model(directory, **told, **origin)
        tokenizer = AutoTokenizer.from_pretrained(directory, **origin)
    except ImportError as error:
        raise ValueError(f"'{name}' needs a package that is not installed: {_first_line(error)}") from error
    except RuntimeError as error:
        if quantization is None:
            raise
        raise ValueError(f"'{name}' cannot be loaded as {quantization} on {device}: {_first_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"'{name}' cannot be loaded as a causal language model: {_first_line(error)}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"no model '{name}': neither a directory with weights and tokenizer nor a Hugging Face id that can be "
            f"fetched ({_first_line(error)})"
        ) from error
    if "device_map" not in told and not getattr(model, "is_quantized", False):
        model.to(device)
    pack(model)
    return Target(model, tokenizer, name=name)


def _load_model(directory: str | Path, **told: Any) -> Any:
    """The causal language model, or the one that reads images too and holds it."""
    origin = {name: told[name] for name in ("revision", "trust_remote_code")}
    config = AutoConfig.from_pretrained(directory, **origin)
    kinds: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText)
    own_code = getattr(config, "auto_map", None) or {}
    fitting = (kind for kind in kinds if type(config) in kind._model_mapping or kind.__name__ in own_code)
    return next(fitting, AutoModelForCausalLM).from_pretrained(directory, **told)


def load_head(
    source: str | Path | None = None, target: Target | None = None, dtype: torch.dtype | None = None
) -> DraftHead:
    """A draft head from a directory or a Hugging Face id; None: the head shipped for the embedded target.

    The target hands out the features of this head's layers from then on: the head of a pair decides.
    Raises as `eagle.checkpoints.flat.open_head`, and ValueError when no head is shipped for the target.
    """
    if source is None and target is not None and target.name != DEFAULT_TARGET:
        raise ValueError(f"no head is shipped for {target.name}: name one with --head, or train it: `eagle-hsd train`")
    head = flat.open_head(source or SHIPPED_HEAD, target, dtype)
    pack(head)
    return head


def convert_gguf(path: Path) -> Path:
    """The GGUF file as a directory of safetensors, converted once and kept in the cache.

    The directory appears in one step: an interrupted conversion leaves nothing that a later run could mistake for it.
    """
    status = path.stat()
    key = hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]
    directory = cache_dir() / "models" / f"{path.stem}-{key}"
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=directory.parent))
        try:
            _save_converted(path, temporary)
            _publish(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _publish(temporary: Path, directory: Path) -> None:
    try:
        temporary.replace(directory)
    except OSError:  # another process was faster: its conversion is as good
        if not directory.is_dir():
            raise


def _save_converted(path: Path, directory: Path) -> None:
    need("gguf")  # else transformers asks for it in six lines
    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if hasattr(model.config, "quantization_config"):  # transformers 5.x sets it, 4.57 does not
        del model.config.quantization_config  # save_pretrained refuses a model flagged as GGUF-quantised
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _as_directory(source: str | Path) -> str:
    """What `from_pretrained` takes: converts GGUF files, leaves ids and directories alone."""
    path = Path(source).expanduser()
    if not str(source).endswith(".gguf"):
        if not path.is_dir():
            _check_hub_id(str(source))
        return str(source)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at '{path}': check the path")
    return str(convert_gguf(path))


def _check_hub_id(name: str) -> None:
    """Raises FileNotFoundError for what is no directory and cannot be an id either."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(f"no model '{name}': neither a directory nor a Hugging Face id ({error})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Targets and heads by name: the embedded default, a GGUF file, a local directory or a Hugging Face id."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from eagle.checkpoints import flat
from eagle.drafters.head import DraftHead
from eagle.engine.lowbit.low_bit_linear import shrink
from eagle.engine.packing import pack
from eagle.engine.target import Target
from eagle.gguf import convert_gguf, find_converted
from eagle.load_options import LOW_BITS, QUANTIZATIONS, quantization_config, read_device_map
from eagle.model_files import first_line, load_checked, load_empty, read_config
from eagle.packages import SMOLLM2

DEFAULT_TARGET = "SmolLM2-135M-Instruct"
SHIPPED_HEAD = Path(__file__).parent / "heads" / "smollm2-135m-instruct"


def choose_device() -> torch.device:
    """The first accelerator, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_device(name: torch.device | str) -> torch.device:
    """Raises ValueError for a name torch does not know, and for a device that this torch or machine does not have."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}': {first_line(error)}") from None
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        told = f"device '{name}' cannot be used here ({first_line(error)})"
        raise ValueError(f"{told}: choose one of {', '.join(there)}") from None
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
    offload_folder: str | None = None,
    tp: int = 1,
    quantization: str | None = None,
    compile: str = "off",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Target:
    """A target from a Hugging Face id, a directory or a GGUF file; None: the embedded SmolLM2-135M-Instruct.

    dtype and device default to `choose_dtype` and `choose_device`, attn_implementation to `sdpa` where the
    architecture has it and to `eager` else. Of a model that also reads images or sound the text part is used. Options
    after them as in `LoadOptions`. Raises FileNotFoundError when there is no such model, ValueError when it is not a
    causal language model, when files of it are damaged or incomplete, for a device that cannot be used and for a
    quantisation whose package is missing, and where passes are to be compiled and cannot be.

    With `tp` the first process of torchrun gets the target; the others never return (see `eagle.parallel.launch`).
    """
    device = find_device(device) if device else choose_device()
    check_source(source, revision)
    name, directory, dtype = str(source or DEFAULT_TARGET), find_model(source), dtype or choose_dtype(device)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code}
    told: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, **shared}
    told |= _in_precision(quantization, dtype, device, device_map)
    if device_map is not None:
        told |= {"device_map": checked_device_map(device_map), "offload_folder": offload_folder}
    if tp > 1:
        check_undivided(tp, device, device_map=device_map, quantization=quantization, compile=compile)
        told |= parts_of(name, directory, tp, **shared)
    model, tokenizer = load_checked(name, directory, **told)
    if tp == 1 and "device_map" not in told and not getattr(model, "is_quantized", False):
        model.to(device)
    if quantization in LOW_BITS:
        shrink(model, LOW_BITS[quantization])
        model.to(dtype)
    pack(model)
    if tp > 1:
        from eagle.parallel.launch import lead_or_follow  # as few runs need it

        return lead_or_follow(model, tokenizer, name)
    target = Target(model, tokenizer, name=name)
    if compile != "off":
        from eagle.compiled.passes import compile_passes  # brings torch's compiler: slow to import

        compile_passes(target, compile)
    return target


def check_source(source: str | Path | None, revision: str | None) -> None:
    """Raises ValueError for an empty name, and for a revision of what is no model of the hub."""
    if source is not None and not str(source).strip():
        raise ValueError("target is empty: name a model, or leave it out for the packaged one")
    if revision is not None and (source is None or Path(source).expanduser().exists()):
        raise ValueError(
            f"revision is '{revision}', but {source or DEFAULT_TARGET} is no model of the hub: leave it out"
        )


def _in_precision(
    quantization: str | None, dtype: torch.dtype, device: torch.device, device_map: object
) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a quantisation."""
    if quantization is None:
        return {}
    if quantization in LOW_BITS:
        check_low_bits(quantization, device, device_map)
        return {"dtype": "auto"}  # blocks that were stored in so many bits get their very numbers back
    return {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": device}}


def describe_target(
    source: str | Path | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> Target:
    """The same target without weights, for its tokenizer, its ends and its sizes. Raises as `load_target`."""
    name = str(source) if source else DEFAULT_TARGET
    model, tokenizer = load_empty(name, find_model(source), revision=revision, trust_remote_code=trust_remote_code)
    return Target(model, tokenizer, name=name)


def checked_device_map(told: str | dict[str, Any]) -> str | dict[str, Any]:
    """As `read_device_map`, and raises ValueError for a device that cannot be used here."""
    places = read_device_map(told)
    for place in set(places.values()) - {"disk"} if isinstance(places, dict) else ():
        find_device(place)
    return places


def check_undivided(tp: int, device: torch.device, **others: Any) -> None:
    """Raises ValueError for a device and for options that a target in parts cannot have."""
    if device != choose_device():
        raise ValueError(f"tp is {tp}, and device is '{device}': every process has one of its own, leave --device out")
    for name, value in others.items():
        if value not in (None, "off"):
            raise ValueError(f"tp is {tp}, and {name} is '{value}': leave one of them out")


def parts_of(name: str, directory: str, tp: int, **told: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a target in `tp` parts. Raises ValueError where it cannot be divided."""
    from eagle.parallel.launch import check_plan, check_processes, loading_arguments

    check_processes(tp)
    check_plan(tp, read_config(name, directory, **told), name)
    return loading_arguments(tp)


def check_low_bits(quantization: str, device: torch.device, device_map: object) -> None:
    """Raises ValueError for a place where our own low-bit layers do not run."""
    if device.type != "cpu" or device_map is not None:
        others = ", ".join(QUANTIZATIONS)
        raise ValueError(f"quantization '{quantization}' is for one CPU: leave --device-map out, or choose of {others}")


def load_head(
    source: str | Path | None = None, target: Target | None = None, dtype: torch.dtype | None = None
) -> DraftHead:
    """A draft head from a directory or a Hugging Face id; None: the head shipped for the embedded target.

    The target hands out the features of this head's layers from then on: the head of a pair decides. Where the target's
    passes are compiled, the head's are. Raises as `eagle.checkpoints.flat.open_head`, and ValueError when no head is
    shipped for the target, and where passes must be compiled and cannot be.
    """
    if source is None and target is not None and target.name != DEFAULT_TARGET:
        raise ValueError(f"no head is shipped for {target.name}: name one with --head, or train it: `eagle-hsd train`")
    head = flat.open_head(source or SHIPPED_HEAD, target, dtype)
    pack(head)
    if target is not None and target.small_pass is not None:
        from eagle.compiled.head_passes import compile_head  # as above

        compile_head(head, target.small_pass.is_demanded)
    return head


def find_model(source: str | Path | None) -> str:
    """What `from_pretrained` takes: converts GGUF files, leaves ids and directories alone; None: the embedded model."""
    if source is None:
        return str(_embedded())
    path = Path(source).expanduser()
    if path.suffix.lower() != ".gguf":
        if path.is_dir():
            return str(path)
        _check_hub_id(str(source))
        return str(source)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at '{path}': check the path")
    return str(convert_gguf(path))


def _embedded() -> Path:
    """The embedded model, converted. Its package may be gone once it was: the cache is as good."""
    try:
        return convert_gguf(SMOLLM2.path())
    except FileNotFoundError:
        converted = find_converted(Path(SMOLLM2.inside).stem)
        if converted is None:
            raise
        return converted


def _check_hub_id(name: str) -> None:
    """Raises FileNotFoundError for what is no directory and cannot be an id either."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(f"no model '{name}': neither a directory nor a Hugging Face id ({error})") from error

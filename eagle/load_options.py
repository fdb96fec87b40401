"""How a target's weights are loaded: the options that every command with a `--target` has."""

import argparse
import dataclasses
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from eagle.options import option

# name: package, class of transformers, what the class is told. Each is a target of its own: losslessness is against it.
QUANTIZATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bnb-8bit": ("bitsandbytes", "BitsAndBytesConfig", {"load_in_8bit": True}),
    "bnb-4bit": ("bitsandbytes", "BitsAndBytesConfig", {"load_in_4bit": True}),
    "quanto-int8": ("optimum.quanto", "QuantoConfig", {"weights": "int8"}),
    "torchao-int8": ("torchao", "TorchAoConfig", {"quant_type": "Int8WeightOnlyConfig"}),
    "torchao-int4": ("torchao", "TorchAoConfig", {"quant_type": "Int4WeightOnlyConfig"}),
    "torchao-fp8": ("torchao", "TorchAoConfig", {"quant_type": "Float8WeightOnlyConfig"}),
}
COMPILE = ("off", "auto", "on")
LOW_BITS = {"cpu-int8": 8, "cpu-int4": 4}  # kernels of our own: see `eagle.engine.lowbit`
INSTALL = {"optimum.quanto": "optimum-quanto"}


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of `eagle.loading.load_target` beside name, dtype and device."""

    device_map: str | None = option(
        None, "how layers are spread over devices: auto, balanced, sequential; none: all on one", may_change=True
    )
    quantization: str | None = option(
        None, "of the weights while they are loaded; another target", choices=(*LOW_BITS, *QUANTIZATIONS)
    )
    compile: str = option(
        "off", "passes over a few nodes as one graph, on CPUs: on; auto: where it is possible", choices=COMPILE
    )
    revision: str | None = option(None, "branch, tag or commit of a model of the hub")
    trust_remote_code: bool = option(False, "run the code that comes with a model of the hub", may_change=True)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Those options as flags of a command that builds its parser itself."""
    for field in dataclasses.fields(LoadOptions):
        flag, shown = f"--{field.name.replace('_', '-')}", {"help": field.metadata["help"], "default": field.default}
        if field.default is False:
            parser.add_argument(flag, action="store_true", **shown)
        else:
            parser.add_argument(flag, choices=field.metadata["limits"].choices or None, **shown)


def loading_options(config: Any) -> dict[str, Any]:
    """Those options of a configuration or a command line, as arguments of `load_target`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(LoadOptions)}


def quantization_config(name: str, dtype: torch.dtype) -> Any:
    """What transformers loads with. Raises ValueError for an unknown name and for a package that is not installed."""
    if name not in QUANTIZATIONS:
        raise ValueError(f"quantization is '{name}', choose one of {', '.join(QUANTIZATIONS)}")
    package, kind, told = QUANTIZATIONS[name]
    if find_spec(package.partition(".")[0]) is None:
        raise ValueError(f"quantization '{name}' needs {package}: pip install {INSTALL.get(package, package)}")
    told = dict(told)
    if package == "torchao":
        told["quant_type"] = getattr(import_module("torchao.quantization"), told["quant_type"])()
    if name == "bnb-4bit":
        told["bnb_4bit_compute_dtype"] = dtype
    return getattr(import_module("transformers"), kind)(**told)

"""How a target's weights are loaded: the options that every command with a `--target` has."""

import argparse
import dataclasses
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import torch

from eagle.options import option
from eagle.yaml_file import read_yaml

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
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's names of ways to fill devices
LOW_BITS = {"cpu-int8": 8, "cpu-int4": 4}  # kernels of our own: see `eagle.engine.lowbit`
INSTALL = {"optimum.quanto": "optimum-quanto"}


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of `eagle.loading.load_target` beside name, dtype and device."""

    device_map: str | None = option(
        None,
        f"how layers are spread over devices: {', '.join(SPREADS)}, or a YAML or JSON file {{module: device}}; "
        "none: all on one",
        may_change=True,
    )
    offload_folder: str | None = option(
        None, "directory for weights on disk that are not in a file as they are used, as experts", may_change=True
    )
    tp: int = option(
        1, "processes of torchrun that the target is divided among, by transformers' plan", at_least=1, may_change=True
    )
    quantization: str | None = option(
        None, "of the weights while they are loaded; another target", choices=(*LOW_BITS, *QUANTIZATIONS)
    )
    compile: str = option(
        "off", "passes over a few nodes as one graph: on; auto: where it is possible", choices=COMPILE
    )
    revision: str | None = option(None, "branch, tag or commit of a model of the hub")
    trust_remote_code: bool = option(False, "run the code that comes with a model of the hub", may_change=True)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Those options as flags of a command that builds its parser itself."""
    hints = get_type_hints(LoadOptions)
    for field in dataclasses.fields(LoadOptions):
        flag, shown = f"--{field.name.replace('_', '-')}", {"help": field.metadata["help"], "default": field.default}
        if field.default is False:
            parser.add_argument(flag, action="store_true", **shown)
        else:
            kind = int if hints[field.name] is int else str
            parser.add_argument(flag, type=kind, choices=field.metadata["limits"].choices or None, **shown)


def loading_options(config: Any) -> dict[str, Any]:
    """Those options of a configuration or a command line, as arguments of `load_target`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(LoadOptions)}


def read_device_map(told: str | Path | dict[str, Any]) -> str | dict[str, Any]:
    """What `from_pretrained` takes as device map: a word of `SPREADS`, or where every module goes.

    A file is a table of modules, as `model.layers.0`, and devices: `cuda:1` or its number, `cpu`, `disk`; the module
    "" is the whole model. Raises ValueError for a word that is none, a file that is not there and one without a module.
    """
    if isinstance(told, dict) or told in SPREADS:
        return told
    if not Path(told).is_file():
        raise ValueError(f"device_map is '{told}', neither one of {', '.join(SPREADS)} nor a file: name modules in one")
    places = read_yaml(Path(told))  # JSON is YAML
    if not places:
        raise ValueError(f"{told} places no module: write lines as `model.layers.0: cuda:0`, or take one of {SPREADS}")
    return places


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

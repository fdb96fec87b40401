"""How a head rotates: `rope_theta`, `rope_scaling` and transformers 5's `rope_parameters`, read and checked.

Scalings whose frequencies depend on the largest position of a call (`dynamic`, `longrope`) are refused: a deep node of
a tree would rotate its siblings and its root another way.
"""

from collections.abc import Mapping
from typing import Any

from eagle.checkpoints.fields import read_number
from eagle.options import Limits

DEFAULT_THETA = 10000.0  # published heads have no rope_theta in their config and rotate with this base
DEFAULT_LENGTH = 2048  # of transformers' LlamaConfig
LENGTH = "original_max_position_embeddings"
UNSCALED = ("default", "mrope")  # mrope differs where there are pictures, of which a text has none
NEEDED = {  # kind of scaling -> the numbers it cannot do without
    "linear": ("factor",),
    "yarn": ("factor", LENGTH),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", LENGTH),
}
POSITIVE = Limits(above=0, at_most=1e12)


def rotation(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of `HeadConfig`. Raises ValueError for what cannot be computed or read."""
    parameters = {**_object(config, "rope_scaling"), **_object(config, "rope_parameters")}
    theta = parameters.pop("rope_theta", None)
    named = {"rope_theta": config.get("rope_theta") if theta is None else theta}
    return {"rope_theta": read_number(named, "rope_theta", DEFAULT_THETA), "rope_scaling": _scaling(config, parameters)}


def _scaling(config: Mapping[str, Any], parameters: dict[str, Any]) -> dict[str, Any] | None:
    kind = parameters.get("rope_type", parameters.get("type"))
    if not parameters or (isinstance(kind, str) and kind in UNSCALED):
        return None
    if not isinstance(kind, str) or kind not in NEEDED:
        raise ValueError(
            f"rope_scaling has rope_type {kind!r}, not {', '.join((*UNSCALED, *NEEDED))}: scalings that depend on the "
            "longest position of a call rotate a tree's nodes in another way than a text's"
        )
    if LENGTH in NEEDED[kind] and parameters.get(LENGTH) is None:
        parameters[LENGTH] = config.get("max_position_embeddings") or DEFAULT_LENGTH
    for name in NEEDED[kind]:
        _check_number(name, parameters.get(name))
    return parameters


def _check_number(name: str, value: Any) -> None:
    if type(value) not in (int, float):
        raise ValueError(f"rope_scaling.{name} is {value!r}, it must be a number: correct config.json")
    POSITIVE.check(value, f"rope_scaling.{name} is {value!r}")


def _object(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name)
    if not isinstance(value, Mapping | None):
        raise ValueError(f"{name} is {value!r}, it must be an object {{...}} or null: correct config.json")
    return dict(value or {})

"""A request of FastChat's as a prompt and options of decoding; what cannot be honoured is refused and not left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle.decode import DecodeOptions
from eagle.judging import AUTO
from eagle.sampling import Sampling
from eagle.typed import shown

GREEDY_BELOW = 1e-5  # temperatures that FastChat's own workers take for greedy
NEUTRAL = {  # what FastChat may send, and the value that asks for nothing
    "best_of": 1,
    "use_beam_search": False,
}


@dataclass(frozen=True)
class WorkerParams:
    """One answer: FastChat has rendered the conversation."""

    prompt: str
    options: DecodeOptions
    echo: bool  # the answer begins with the prompt


def worker_params(params: Mapping[str, Any], verifier: str = AUTO) -> WorkerParams:
    """Raises ValueError for values outside their range and for what this worker does not do."""
    _refuse_unknown(params)
    temperature = _number(params, "temperature", 1.0)
    top_k = int(_number(params, "top_k", -1))
    sampling = Sampling(
        0.0 if 0 <= temperature < GREEDY_BELOW else temperature,
        max(top_k, 0),
        _number(params, "top_p", 1.0) or 1.0,  # FastChat takes 0 for off
        repetition_penalty=_number(params, "repetition_penalty", 1.0),
        presence_penalty=_number(params, "presence_penalty", 0.0),
        frequency_penalty=_number(params, "frequency_penalty", 0.0),
    )
    stop = params.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(map(str, stop))
    options = DecodeOptions(
        sampling,
        int(_number(params, "max_new_tokens", 256)),
        verifier,
        stop_ids=frozenset(map(int, params.get("stop_token_ids") or ())),
        stop=tuple(filter(None, stops)),
    )
    return WorkerParams(str(params["prompt"]), options, bool(params.get("echo", True)))


def _refuse_unknown(params: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL.items():
        if params.get(name) not in (None, neutral):
            raise ValueError(f"{name} is {shown(params[name])}, this worker takes {neutral} alone: leave it out")
    for name in ("logprobs", "images"):
        if params.get(name):
            raise ValueError(f"{name} is asked for, this worker has none: leave it out")


def _number(params: Mapping[str, Any], name: str, default: float) -> float:
    value = params.get(name)
    try:
        return default if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shown(value)}, it must be a number") from None

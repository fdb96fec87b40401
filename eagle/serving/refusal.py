"""What a client is told when a request is refused or fails, in OpenAI's form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eagle.options import did_you_mean

UNIONS = {
    "stop": "must be a text or a list of up to 16 texts, none of them empty",
    "prompt": "must be a text, a list of token ids, or a list of up to 64 of either, none of them empty",
}


@dataclass(eq=False)  # not frozen: who passes an exception on writes its traceback
class Refusal(Exception):
    """An answer with an error body in place of a result."""

    status: int
    message: str
    param: str | None = None  # the field of the body that is to blame
    code: str | None = None
    kind: str = "invalid_request_error"
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None, code: str | None = None) -> Refusal:
    """400 with the field's name."""
    return Refusal(400, message, param, code)


def too_long(num_prompt: int, num_new: int, limit: int, param: str) -> Refusal:
    """400 with the numbers, where prompt and answer would not fit."""
    told = f"This model's maximum context length is {limit} tokens"
    wanted = f"{num_prompt + num_new} tokens ({num_prompt} in the prompt, {num_new} in the answer)"
    remedy = "send a shorter prompt or ask for a shorter answer"
    return invalid(f"{told}, but {wanted} were requested: {remedy}", param, "context_length_exceeded")


def queue_full(num_waiting: int) -> Refusal:
    """429: the official client waits and comes again by itself."""
    told = f"{num_waiting} requests are waiting, no more are taken: come again later"
    return Refusal(429, told, None, "rate_limit_exceeded", "rate_limit_error", {"Retry-After": "1"})


def shutting_down() -> Refusal:
    return Refusal(503, "the server is shutting down", None, "shutting_down", "server_error", {"Retry-After": "5"})


def left() -> Refusal:
    """For the count of errors: nobody reads it."""
    return Refusal(499, "the client has left", None, "client_left")


def broken() -> Refusal:
    """500: what went wrong stands in the server's own log."""
    return Refusal(500, "the server failed to answer: its log says why", None, None, "server_error")


def from_validation(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Refusal:
    """The first mistake that pydantic found in a body; `known` fields are offered for a misspelt one."""
    first = errors[0]
    places = [place for place in first["loc"] if place != "body"]
    if first["type"] == "json_invalid":
        return invalid(f"the body is no JSON: {first.get('ctx', {}).get('error', first['msg'])}", None)
    if not places:
        return invalid("the body must be a JSON object, sent with 'Content-Type: application/json'", None)
    if places[0] in UNIONS:  # pydantic tells of each form that the value has not
        return invalid(f"{places[0]} {UNIONS[str(places[0])]}", str(places[0]))
    param = _shown(places)
    if first["type"] == "extra_forbidden":
        near = did_you_mean(str(places[-1]), known)
        return invalid(f"unknown field '{param}'{near}: leave it out", param, "unknown_parameter")
    return invalid(f"{param}: {str(first['msg']).removeprefix('Value error, ')}", param)


def _shown(places: Sequence[object]) -> str:
    """As `messages[0].content`."""
    shown = ""
    for place in places:
        shown += f"[{place}]" if isinstance(place, int) else f".{place}" if shown else str(place)
    return shown[:200]

"""A running server that speaks OpenAI's completions: vLLM, SGLang, `eagle-hsd serve`.

Prompts go there as token ids and answers come back as token ids (`return_token_ids`, of vLLM 0.10.2, SGLang since July
2026 and ours): text that is tokenised again need not be what the model wrote. Whatever a server could change in the law
by its own defaults (those of a generation_config.json) is sent along as off.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eagle.packages import need

TRIES = 8
FIRST_WAIT = 0.5  # seconds before the second try; doubled every time, so that the last one comes after a minute
LONGEST_WAIT = 20.0
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # may be well again
DONE = "[DONE]"
NEEDS_IDS = "it must know return_token_ids (vLLM from 0.10.2, SGLang from July 2026, eagle-hsd serve)"
PROBE = "Tokens: naïve 数 \N{GRINNING FACE} 12345\n\n  def f(x):\treturn x"
UNCHANGED = {  # the law as the model has it
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class Refused(ValueError):
    """The server understood a request and does not serve it."""


@dataclass(frozen=True)
class Completion:
    """An answer as the server wrote it."""

    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finish: str  # "stop" or "length"
    text: str
    num_accepted: int | None = None  # drafted tokens that were accepted, where the server says so


@dataclass(frozen=True)
class Wanted:
    """How to answer."""

    max_tokens: int
    temperature: float
    seed: int


class Endpoint:
    """A model of a server; threads may share it.

    Raises ValueError for an address that is none and for a model that the server does not have, OSError where it cannot
    be reached.
    """

    def __init__(self, url: str, model: str | None = None, timeout: float = 600.0, tries: int = TRIES):
        """url: with or without /v1. model: the server's only one by default. The key is OPENAI_API_KEY of the shell."""
        self._httpx, self._tries = need("httpx"), tries
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint is '{url}', it must begin with http:// or https://, as http://127.0.0.1:8000/v1"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = self._httpx.Client(base_url=self.url, headers=headers, timeout=timeout, limits=limits)
        self._closed = threading.Event()
        self.model = self._choose(model)

    def close(self) -> None:
        """Requests that wait for another try give up."""
        self._closed.set()

    def complete(self, prompt: str | Sequence[int], wanted: Wanted, **more: Any) -> Completion:
        """Continue text or token ids. Raises `Refused` with the server's words, OSError where it stays unreachable."""
        body = self._body(prompt, wanted) | more
        return _completion(self.url, self._request("POST", "/v1/completions", body))

    def stream(self, prompt: Sequence[int], wanted: Wanted) -> Iterator[tuple[int, ...]]:
        """The tokens of an answer as they arrive: with most servers an event is a pass of the target.

        Raises `Refused` as `complete`, OSError where the stream breaks: it is not begun again.
        """
        body = {**self._body(prompt, wanted), "stream": True}
        with (
            self._told_apart(),
            self._client.stream("POST", "/v1/completions", json=body) as response,
        ):
            if response.status_code >= 400:
                response.read()
                self._read(response)
            for line in response.iter_lines():
                told = line.removeprefix("data:").strip()
                if line.startswith("data:") and told != DONE:
                    yield from _tokens(self.url, told)

    def check_tokenizer(self, encode: Callable[[str], Sequence[int]]) -> None:
        """Raises ValueError unless the server reads a probe of many kinds of characters as `encode` does."""
        theirs = self.complete(PROBE, Wanted(1, 0.0, 0), add_special_tokens=False).prompt_ids
        ours = tuple(encode(PROBE))
        if theirs != ours:
            place = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), "the end")
            raise ValueError(
                f"{self.url} serves {self.model} with another tokenizer: a probe has {len(theirs)} tokens there and "
                f"{len(ours)} with the target's, they part at {place}: name the served model with --target"
            )

    def _body(self, prompt: str | Sequence[int], wanted: Wanted) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": wanted.max_tokens,
            "temperature": wanted.temperature,
            "seed": wanted.seed % 2**63,
            "return_token_ids": True,
            **UNCHANGED,
        }

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except self._httpx.TransportError as error:
            raise OSError(f"{self.url} broke off ({error or type(error).__name__}): is the server running?") from None

    def _choose(self, model: str | None) -> str:
        answer = self._request("GET", "/v1/models")
        names = [str(entry["id"]) for entry in answer.get("data") or () if isinstance(entry, Mapping) and "id" in entry]
        if model is None and len(names) == 1:
            return names[0]
        if model not in names:
            asked = "names no model" if model is None else f"has no model '{model}'"
            raise ValueError(f"{self.url} {asked}: choose one of {', '.join(names) or '(it lists none)'}")
        return str(model)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One answer in JSON; busy and broken servers are asked again."""
        wait = FIRST_WAIT
        for number in range(self._tries):
            try:
                response = self._client.request(method, path, json=body)
                if response.status_code not in BUSY:
                    return self._read(response)
                trouble = f"status {response.status_code}: {_reason(response)}"
                wait = max(wait, _retry_after(response))
            except self._httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
            if number + 1 < self._tries and self._closed.wait(min(wait, LONGEST_WAIT)):
                break
            wait *= 2
        raise OSError(f"{self.url} cannot be reached ({trouble}): is the server running, and at this address?")

    def _read(self, response: Any) -> dict[str, Any]:
        if response.status_code >= 400:
            raise Refused(f"{self.url} refuses with status {response.status_code}: {_reason(response)}")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(f"{self.url} answers with something else than JSON: is it an OpenAI-compatible server?")
        return answer


def _completion(url: str, answer: Mapping[str, Any]) -> Completion:
    try:
        choice = answer["choices"][0]
        details = (answer.get("usage") or {}).get("completion_tokens_details") or {}
        finish = choice["finish_reason"]
        ids, prompt = choice.get("token_ids"), choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Refused(f"{url} answers without choices: is it an OpenAI-compatible server?") from None
    if ids is None or prompt is None:
        raise Refused(f"{url} returns no token ids: {NEEDS_IDS}")
    accepted = details.get("accepted_prediction_tokens")
    return Completion(tuple(ids), tuple(prompt), str(finish), str(choice.get("text") or ""), accepted)


def _tokens(url: str, event: str) -> Iterator[tuple[int, ...]]:
    """Those of one event of a stream; events without any, as that of the usage, are passed over."""
    try:
        choices = json.loads(event).get("choices") or ()
        tokens = [choice.get("token_ids") for choice in choices]
    except (ValueError, AttributeError):
        raise Refused(f"{url} streams something else than completions: is it an OpenAI-compatible server?") from None
    for choice, ids in zip(choices, tokens, strict=True):
        if ids is None and choice.get("text"):
            raise Refused(f"{url} streams no token ids: {NEEDS_IDS}")
        if ids:
            yield tuple(ids)


def _reason(response: Any) -> str:
    """The server's own words, in one line."""
    try:
        told = response.json()
        told = told.get("error", told)
        told = told.get("message", told) if isinstance(told, Mapping) else told
    except (ValueError, AttributeError):
        told = response.text
    return " ".join(str(told).split())[:300]


def _retry_after(response: Any) -> float:
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0

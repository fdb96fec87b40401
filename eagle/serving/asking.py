"""Bodies -> what to decode: prompts in tokens, laws, seeds and limits, with every refusal naming its field."""

import inspect
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eagle.decode import DecodeOptions
from eagle.prompting import encode_prompt, render_prompt
from eagle.sampling import Sampling
from eagle.seeds import stable_number
from eagle.serving.backend import Backend
from eagle.serving.bodies import Body, ChatBody, CompletionBody
from eagle.serving.refusal import Refusal, invalid, too_long
from eagle.serving.work import Ask
from eagle.text import bad_word_ids, stop_ids

TEXT_TOKENS = 16  # of an answer to POST /v1/completions that does not say: OpenAI's number
ROLES = {"developer": "system"}
LAWS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


class Asking:
    """Reads bodies for one backend. From any thread; one text is tokenised at a time."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self._lock = threading.Lock()  # a tokenizer is not made for two threads

    def chat(self, body: ChatBody) -> Ask:
        """Raises `Refusal`."""
        self.check_model(body.model)
        prompt = self._conversation(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("top_logprobs is given without logprobs: set logprobs to true", "top_logprobs")
        num_top = (body.top_logprobs or 0) if body.logprobs else None
        wanted = body.max_completion_tokens or body.max_tokens
        num_new = self._room(prompt, wanted, self._backend.max_new_tokens, "messages")
        return self._ask(body, [prompt], num_new, num_top)

    def _conversation(self, body: ChatBody) -> list[int]:
        backend, continued = self._backend, bool(body.continue_final_message)
        messages = [{"role": ROLES.get(said.role, said.role), "content": said.content} for said in body.messages]
        if backend.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": backend.system})
        if body.add_generation_prompt is not None and body.add_generation_prompt == continued:
            told = f"is {body.add_generation_prompt} while continue_final_message is {continued}: leave it out"
            raise invalid(f"add_generation_prompt {told}", "add_generation_prompt")
        variables = self._variables(body)
        try:
            with self._lock:
                text = render_prompt(backend.tokenizer, messages, backend.template, continued=continued, **variables)
                return encode_prompt(backend.tokenizer, text)
        except ValueError as error:
            raise invalid(f"messages: {error}", "messages") from None

    def _variables(self, body: ChatBody) -> dict[str, Any]:
        """Variables of the template, and none that would reach anything else, such as the template itself."""
        given = body.chat_template_kwargs or {}
        functions = (render_prompt, self._backend.tokenizer.apply_chat_template)
        taken = {name for function in functions for name in inspect.signature(function).parameters}
        if wrong := given.keys() & taken:
            raise invalid(f"chat_template_kwargs holds {min(wrong)}, which is no template's", "chat_template_kwargs")
        return given

    def completion(self, body: CompletionBody) -> Ask:
        """Raises `Refusal`."""
        self.check_model(body.model)
        prompts, usual = (
            self._texts(body.prompt, body.add_special_tokens is not False),
            self._backend.max_new_tokens or TEXT_TOKENS,
        )
        num_new = min(self._room(prompt, body.max_tokens, usual, "prompt") for prompt in prompts)
        return self._ask(body, prompts, num_new, body.logprobs)

    def _texts(self, given: str | Sequence[Any], special: bool) -> list[list[int]]:
        if isinstance(given, str):
            return [self._encode(given, special)]
        several: list[Any] = list(given)
        if isinstance(several[0], int):
            return [self._checked_ids(several, "prompt")]
        return [
            self._encode(one, special) if isinstance(one, str) else self._checked_ids(one, "prompt") for one in several
        ]

    def _encode(self, text: str, special: bool) -> list[int]:
        """`special`: with the tokens that the tokenizer puts before every text."""
        with self._lock:
            return list(self._backend.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _checked_ids(self, ids: Sequence[int], param: str) -> list[int]:
        size = self._backend.target.vocab_size
        if beyond := [number for number in ids if not 0 <= number < size]:
            raise invalid(f"{param} holds token {beyond[0]}: ids of this model lie in 0..{size - 1}", param)
        return list(ids)

    def _ask(self, body: Body, prompts: list[list[int]], num_new: int, num_top: int | None) -> Ask:
        stops = (*self._backend.stop, *body.stops)
        options = DecodeOptions(
            self._sampling(body),
            num_new,
            self._backend.verifier,
            ignore_end=bool(body.ignore_eos),
            stop_ids=self._stop_ids(body, stops),
            logprobs=num_top,
        )
        seeds = tuple(self._seeds(body, len(prompts)))
        return Ask(tuple(map(tuple, prompts)), seeds, options, stops)

    def _room(self, prompt: Sequence[int], wanted: int | None, usual: int | None, param: str) -> int:
        """How many tokens an answer may have: as many as are wanted, else as usual, as far as the context goes."""
        limit = self._backend.context_limit
        if not prompt:
            raise invalid(f"{param} holds no token: write something", param)
        if len(prompt) + (wanted or 1) > limit:
            raise too_long(len(prompt), wanted or 1, limit, param)
        try:
            self._backend.check_length(len(prompt))
        except ValueError as error:
            raise invalid(str(error), param, "context_length_exceeded") from None
        left = limit - len(prompt)
        return wanted or min(usual or left, left)

    def _sampling(self, body: Body) -> Sampling:
        given = {name: getattr(body, name) for name in LAWS if getattr(body, name) is not None}
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)  # clients of vLLM write -1 for off
        if body.logit_bias:
            given["logit_bias"] = self._bias(body.logit_bias)
        if body.bad_words:
            given["bad_words"] = self._bad_words(body.bad_words)
        try:
            return replace(self._backend.sampling, **given)
        except ValueError as error:
            raise invalid(str(error), next((name for name in given if str(error).startswith(name)), None)) from None

    def _bias(self, given: dict[str, float]) -> dict[int, float]:
        try:
            bias = {int(name): number for name, number in given.items()}
        except ValueError:
            raise invalid("logit_bias must map token ids, written as text, to numbers", "logit_bias") from None
        self._checked_ids(list(bias), "logit_bias")
        return bias

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        try:
            with self._lock:
                return bad_word_ids(self._backend.tokenizer, words)
        except ValueError as error:
            raise invalid(f"bad_words: {error}", "bad_words") from None

    def _stop_ids(self, body: Body, stops: Sequence[str]) -> frozenset[int]:
        own = frozenset(self._checked_ids(body.stop_token_ids or (), "stop_token_ids"))
        if body.ignore_eos:
            return own
        try:
            with self._lock:
                return own | stop_ids(self._backend.tokenizer, stops) | self._template_ends()
        except ValueError as error:
            raise invalid(f"stop: {error}", "stop") from None

    def _template_ends(self) -> frozenset[int]:
        template = self._backend.template
        return self._backend.target.end_ids_with(template) if template is not None else frozenset()

    def _seeds(self, body: Body, num_prompts: int) -> list[int]:
        """The request's own for its first answer, numbers made of it for the others."""
        seed = self._backend.seed if body.seed is None else body.seed
        seed = secrets.randbits(63) if seed is None else seed
        count = num_prompts * (body.n or 1)
        return [seed, *(stable_number("choice", seed, number) for number in range(1, count))]

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self._backend.name:
            told = f"The model '{name[:200]}' does not exist: this server has '{self._backend.name}'"
            raise Refusal(404, told, "model", "model_not_found")

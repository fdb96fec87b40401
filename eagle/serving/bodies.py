"""Bodies of requests: OpenAI's fields, and those that vLLM adds. What is not here is refused by name.

A field that would change the answer and is not carried out is refused too; one that changes nothing is taken.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from eagle.sampling import HOTTEST
from eagle.serving.refusal import invalid

MAX_CHOICES = 16  # answers to one prompt
MAX_PROMPTS = 64  # of one request
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16


def _whole(text: str) -> str:
    """Raises ValueError for half a character, which JSON can write and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds half a character at place {error.start}: write it anew") from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]
Token = Annotated[int, Field(ge=0)]

# fields that would change the answer, with the values that leave it as it is, and what to say
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), "tools are not called here"),
    "tool_choice": (("none", "auto"), "tools are not called here"),
    "functions": (([],), "functions are not called here"),
    "function_call": (("none", "auto"), "functions are not called here"),
    "response_format": (({"type": "text"},), "answers are not held to a form: only {'type': 'text'} is offered"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "web_search_options": ((), "nothing is searched"),
    "reasoning_effort": ((), "there is no such switch: write it into the messages"),
    "verbosity": (("medium",), "there is no such switch: write it into the messages"),
    "suffix": (("",), "text is continued, not filled in"),
    "echo": ((False,), "the prompt is not repeated"),
    "best_of": ((1,), "all answers are returned: ask for n"),
    "min_tokens": ((0,), "answers end where the model ends them: ignore_eos goes on to max_tokens"),
    "skip_special_tokens": ((True,), "special tokens are no text"),
    "include_stop_str_in_output": ((False,), "an answer ends before its stop string"),
    "use_beam_search": ((False,), "tokens are drawn"),
    "prompt_logprobs": ((), "only tokens of the answer have log-probabilities"),
    "guided_json": ((), "answers are not held to a form"),
    "guided_regex": ((), "answers are not held to a form"),
    "guided_choice": ((), "answers are not held to a form"),
    "guided_grammar": ((), "answers are not held to a form"),
    "structured_outputs": ((), "answers are not held to a form"),
}
HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",  # a hint for speed; this server has its own
    "parallel_tool_calls",
    "spaces_between_special_tokens",
    "priority",
    "request_id",
    "cache_salt",
}


def _flat(content: object) -> object:
    """Text of a message that comes in parts. Raises ValueError for parts of other kinds."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"parts must be {{'type': 'text', 'text': ..}}, one is of type {str(kind)[:50]!a}")
        texts.append(part["text"])
    return "".join(texts)


class Strict(BaseModel):
    """Types as JSON has them, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    include_usage: bool | None = None  # one more event at the end, with the usage
    include_obfuscation: bool | None = None  # nothing is added to hide lengths


class Message(Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_flat)]
    name: str | None = None
    refusal: str | None = None
    audio: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)
    function_call: None = None
    annotations: list[Any] | None = None


class Body(Strict):
    """What both routes share."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=HOTTEST)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)  # -1 and 0: off
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    bad_words: list[Stop] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: list[Token] | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None  # of prompt and answer, as vLLM and SGLang have it: training data needs them

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        """Leaves out what changes nothing. Raises `Refusal` for what would, and is not carried out."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in HARMLESS:
                continue
            if name not in REFUSED:
                kept[name] = value
            elif value is not None and not any(_same(value, fine) for fine in REFUSED[name][0]):
                raise invalid(f"{name} is not supported ({REFUSED[name][1]}): leave it out", name, "unsupported_value")
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _same(value: Any, fine: Any) -> bool:
    return type(value) is type(fine) and value == fine


class ChatBody(Body):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None  # the last message is the beginning of the answer
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the template, such as enable_thinking


class CompletionBody(Body):
    """POST /v1/completions"""

    prompt: (
        Text
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[list[Token]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    add_special_tokens: bool | None = None  # those that the tokenizer puts before every text; not said: it does

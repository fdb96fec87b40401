"""What is served: a target with its drafters, and what requests that say nothing get."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from eagle.decode import Session
from eagle.drafters.protocol import Drafter
from eagle.engine.cache import KeyValueCache
from eagle.engine.target import Target
from eagle.judging import AUTO
from eagle.model_defaults import model_options
from eagle.sampling import Sampling

OPENAI_TEMPERATURE = 1.0  # of requests that do not say, where the model does not either
OPENAI_SAMPLING = Sampling(OPENAI_TEMPERATURE)


@dataclass(frozen=True)
class Backend:
    """Nothing here holds a text: sessions do, and each has a drafter of its own.

    Raises ValueError for a target without a tokenizer.
    """

    target: Target
    new_drafter: Callable[[], Drafter | None] = lambda: None
    name: str = ""  # what clients call it; empty: the target's own name
    sampling: Sampling = OPENAI_SAMPLING  # of requests that do not say
    verifier: str = AUTO
    template: str | None = None  # a FastChat one, for a tokenizer without its own
    system: str | None = None  # for conversations that begin without one
    stop: tuple[str, ...] = ()  # for all answers
    seed: int | None = None  # of requests without one; None: another one each time
    max_new_tokens: int | None = None  # of requests that name none; None: to the end of the context (16 for text)
    check_length: Callable[[int], None] = lambda num_tokens: None  # raises ValueError where the drafter has no room

    def __post_init__(self) -> None:
        if self.target.tokenizer is None:
            raise ValueError("this target was made without a tokenizer: pass one to Target(model, tokenizer)")
        object.__setattr__(self, "name", self.name or public_name(self.target.name))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        assert self.target.tokenizer is not None, "checked at construction"
        return self.target.tokenizer

    @cached_property
    def may_split(self) -> bool:
        """Whether reading a text in blocks computes what reading it whole does: not where angles change with length."""
        cache = self.target.new_cache()
        return isinstance(cache, KeyValueCache) and cache.switch is None

    @property
    def context_limit(self) -> int:
        return self.target.context_limit

    def new_session(self, block: int | None = None) -> Session:
        return Session(self.target, self.new_drafter(), block if self.may_split else None)


def public_name(name: str) -> str:
    """A model of the hub as it is called; of a path the last part: others need not know the rest."""
    return Path(name).name if Path(name).expanduser().exists() else name


def served_sampling(target: Target) -> tuple[Sampling, tuple[str, ...]]:
    """How requests that do not say are drawn, and where their answers stop: as the model's generation_config has it.

    A model that does not say that it wants to be sampled gets OpenAI's temperature, not 0. Raises ValueError for what
    is not computed here.
    """
    own = model_options(target.model.generation_config, target.name)
    sampling = replace(own.sampling, temperature=OPENAI_TEMPERATURE) if own.sampling.greedy else own.sampling
    return sampling, own.stop

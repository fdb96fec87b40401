"""What the decoding thread tells whoever waits for an answer."""

from dataclasses import dataclass, field

from eagle.decode import Finish
from eagle.logprobs import TokenLogprob


@dataclass
class Usage:
    """Tokens of a request."""

    prompt: int = 0  # every prompt once, however many answers it gets
    cached: int = 0  # of those, the ones that a session had read before
    answer: int = 0  # of all answers, with the tokens that end them
    accepted: int = 0  # of those, drafted ones
    rejected: int = 0  # nodes of draft trees that were not emitted


@dataclass(frozen=True)
class Delta:
    """What a round adds to one answer."""

    choice: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()  # where log-probabilities were asked for
    finish: Finish | None = None
    ids: tuple[int, ...] = ()  # of all its tokens, the one that ends it too


@dataclass(frozen=True)
class Ended:
    """All answers are complete."""

    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Failed:
    """There will be no more of it."""

    error: Exception


@dataclass(frozen=True)
class Cancelled:
    """There will be no more of it, and nobody failed."""

    by_client: bool = False  # who has left; else the server ends


Event = Delta | Ended | Failed | Cancelled
LAST = (Ended, Failed, Cancelled)

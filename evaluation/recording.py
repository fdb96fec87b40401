"""From a stream of steps to counted tokens, rounds and seconds. What counts is decided here and nowhere else.

The first step reads the prompt: its token is emitted, but it belongs to no round and to no decoding time. Every later
step is a round. Tokens after the end of text or over the cap are not in the steps, and `check` refuses them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from eagle.decode import Step
from eagle.stats import DecodeStats
from eagle.timing import PhaseClock
from evaluation.expected import ExactTau

PHASES = ("draft", "target", "verify")


@dataclass(frozen=True)
class TreeShape:
    """What one round proposed."""

    num_nodes: int  # with the root
    depth: int
    num_sampled: int


@dataclass(frozen=True)
class Seconds:
    """Where the time went. The phases cover decoding only; peers that run in one call have none."""

    prefill: float  # until the first token
    decode: float  # after it
    draft: float | None = None
    target: float | None = None
    verify: float | None = None

    @property
    def total(self) -> float:
        return self.prefill + self.decode

    @property
    def rest(self) -> float | None:
        """Decoding time outside the three phases: caches, emission, Python."""
        if self.draft is None or self.target is None or self.verify is None:
            return None
        return self.decode - self.draft - self.target - self.verify


@dataclass(frozen=True)
class Generation:
    """One answer, counted."""

    tokens: tuple[int, ...]
    num_first: int  # tokens of the first step
    accepted: tuple[int, ...]  # a round, cut at the end of text and at the cap
    emitted: tuple[int, ...]  # a round
    finish: str
    seconds: Seconds
    shapes: tuple[TreeShape, ...] = ()  # a round; empty for arms without trees
    exact: dict[str, float] = field(default_factory=dict)  # verifier -> expected accepted tokens of all rounds
    bound: float | None = None  # sum of p(v) over the rounds, on deterministic trees
    coupled: bool = False  # drawn with the noise field of the row's seed: equal to all others that are

    @property
    def rounds(self) -> int:
        return len(self.accepted)

    @property
    def num_decoded(self) -> int:
        """Tokens that decoding time was spent on."""
        return len(self.tokens) - self.num_first

    def check(self, end_token_ids: frozenset[int], max_new_tokens: int) -> "Generation":
        """Returns self; raises ValueError when the counting breaks a rule of the module."""
        early = [i for i, token in enumerate(self.tokens[:-1]) if token in end_token_ids]
        if early:
            raise ValueError(f"token {early[0]} of {len(self.tokens)} ends the text and others are counted after it")
        if len(self.tokens) > max_new_tokens:
            raise ValueError(f"{len(self.tokens)} tokens are counted, over the cap of {max_new_tokens}")
        if sum(self.emitted) != self.num_decoded:
            raise ValueError(
                f"the rounds emitted {sum(self.emitted)} tokens, the text has {self.num_decoded} after the first step: "
                "the prefill's token belongs to no round"
            )
        if any(not e - 1 <= a <= e for a, e in zip(self.accepted, self.emitted, strict=True)):
            raise ValueError("a round accepted more tokens than it emitted, or emitted more than one undrafted token")
        return self


def record(
    steps: Iterable[Step], clock: PhaseClock, exact: ExactTau | None = None, coupled: bool = False
) -> Generation:
    """Consume the steps of one answer. Exact laws are computed between steps, which no clock sees."""
    stats, recording, before = DecodeStats(), Recording(exact, coupled), dict.fromkeys(PHASES, 0.0)
    for number, step in enumerate(stats.watch(steps)):
        if number == 0:
            before = {phase: clock.seconds[phase] for phase in PHASES}
        recording.add(step)
    phases = {phase: clock.seconds[phase] - before[phase] for phase in PHASES}
    return recording.generation(Seconds(stats.prefill_s, stats.decode_s, **phases))


class Recording:
    """One answer, step by step."""

    def __init__(self, exact: ExactTau | None = None, coupled: bool = False):
        """exact: None where the laws of other rules are not asked for; coupled: as in `Generation`."""
        self._exact, self._coupled = exact, coupled
        self._kept: list[Step] = []
        self._shapes: list[TreeShape] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, step: Step) -> None:
        self._kept.append(Step(step.tokens, step.num_accepted, step.finish))  # without the round's tensors
        if step.round is not None:
            self._shapes.append(_shape(step))
            if self._exact is not None:
                self._exact.add(step.round)

    def generation(self, seconds: Seconds) -> Generation:
        """Behind the last step."""
        kept, exact = self._kept, self._exact
        rounds = [step for step in kept[1:] if step.tokens]  # a context that is full ends with an empty step
        return Generation(
            tokens=tuple(token for step in kept for token in step.tokens),
            num_first=len(kept[0].tokens),
            accepted=tuple(step.num_accepted for step in rounds),
            emitted=tuple(len(step.tokens) for step in rounds),
            finish=str(kept[-1].finish),
            seconds=seconds,
            shapes=tuple(self._shapes),
            exact=exact.sums if exact is not None else {},
            bound=exact.bound if exact is not None and self._shapes else None,
            coupled=self._coupled,
        )


def _shape(step: Step) -> TreeShape:
    assert step.round is not None
    tree = step.round.tree
    return TreeShape(tree.num_nodes, max(tree.depth), sum(tree.sampled_list))

"""One JSON line for every (task, question, turn, arm, temperature, seed), and the directory that keeps them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eagle.files import JsonLines, claim
from evaluation.eval_config import config_hash
from evaluation.recording import Generation, Seconds, TreeShape

ROWS, RUN = "rows.jsonl", "run.json"
Read = TypeVar("Read")


class Key(NamedTuple):
    """What names a row."""

    task: str
    question: str
    turn: int  # from 0
    arm: str
    temperature: float
    seed: int  # from 0; the generator's own seed is the row's draw_seed


@dataclass(frozen=True)
class AnswerRow:
    """One answer with everything the reports are made from."""

    key: Key
    draw_seed: int
    prompt_tokens: tuple[int, ...]
    generation: Generation
    text: str
    correct: bool | None  # None: the task has no score of its own
    degenerate: bool
    config: str  # hash of the options and weights behind this row
    versions: dict[str, str]
    question: str = ""  # digest of the question as it was asked
    batch: int = 1  # answers decoded side by side; more than 1: seconds are this one's share of what all took

    @property
    def capped(self) -> bool:
        return self.generation.finish != "stop"

    def to_json(self) -> dict[str, Any]:
        """Flat, with lists for tuples; every count a reader needs stands beside its list."""
        generation = self.generation
        seconds = dataclasses.asdict(generation.seconds)
        return {
            **self.key._asdict(),
            "draw_seed": self.draw_seed,
            "text": self.text,
            "tokens": generation.tokens,
            "num_tokens": len(generation.tokens),
            "num_first": generation.num_first,
            "prompt_tokens": self.prompt_tokens,
            "rounds": generation.rounds,
            "accepted": generation.accepted,
            "emitted": generation.emitted,
            "shapes": [dataclasses.astuple(shape) for shape in generation.shapes],
            "exact": generation.exact,
            "bound": generation.bound,
            "coupled": generation.coupled,
            "seconds": {**seconds, "rest": generation.seconds.rest, "total": generation.seconds.total},
            "finish": generation.finish,
            "capped": self.capped,
            "degenerate": self.degenerate,
            "correct": self.correct,
            "config": self.config,
            "versions": self.versions,
            "question_digest": self.question,
            "batch": self.batch,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "AnswerRow":
        seconds = Seconds(**{f.name: values["seconds"][f.name] for f in dataclasses.fields(Seconds)})
        generation = Generation(
            tokens=tuple(values["tokens"]),
            num_first=values["num_first"],
            accepted=tuple(values["accepted"]),
            emitted=tuple(values["emitted"]),
            finish=values["finish"],
            seconds=seconds,
            shapes=tuple(TreeShape(*shape) for shape in values["shapes"]),
            exact=values["exact"],
            bound=values["bound"],
            coupled=values.get("coupled", False),  # older versions drew plain answers in another way
        )
        same = {n: values[n] for n in ("draw_seed", "text", "correct", "degenerate", "config", "versions")}
        key = Key(**{name: values[name] for name in Key._fields})
        question = values.get("question_digest", "")  # rows of older versions have none, and are played again
        prompt_tokens, batch = tuple(values["prompt_tokens"]), values.get("batch", 1)
        return cls(key=key, generation=generation, prompt_tokens=prompt_tokens, question=question, batch=batch, **same)


def read_as(file: JsonLines, convert: Callable[[Any], Read]) -> Iterator[Read]:
    """The lines of a file as what they stand for. Raises ValueError that names file and line of one that does not."""
    for number, values in enumerate(file.read(), start=1):
        try:
            yield convert(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{file.path} is damaged at line {number} ({type(error).__name__}: {error}): "
                "remove the line, or restore the file"
            ) from None


class RunDirectory:
    """The rows of one configuration, appended as they become known.

    Raises ValueError when the directory holds rows of another configuration, naming what differs.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        claim(path / RUN, identity, "choose another --output")
        self.config = config_hash(identity)
        self._rows = JsonLines(path / ROWS)

    def rows(self) -> dict[Key, AnswerRow]:
        """Of two with one key, the later one: the question was edited in between."""
        return {row.key: row for row in read_as(self._rows, AnswerRow.from_json)}

    def append(self, row: AnswerRow) -> None:
        self._rows.append(row.to_json())


DEGENERATE_MIN_TOKENS, DEGENERATE_DISTINCT, NGRAM = 48, 0.5, 4


def is_degenerate(tokens: Sequence[int]) -> bool:
    """Whether a text runs in circles: of its last tokens' 4-grams fewer than half are different, or it is empty.

    Only the second half of the text is looked at, and nothing shorter than 48 tokens.
    """
    if not tokens:
        return True
    tail = tokens[len(tokens) // 2 :]
    grams = Counter(zip(*(tail[i:] for i in range(NGRAM)), strict=False))
    return len(tokens) >= DEGENERATE_MIN_TOKENS and len(grams) < DEGENERATE_DISTINCT * grams.total()

"""From prompts to rows of training data: read, clean, answer, write; killed at any moment, it goes on where it was."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.data.conversations import TokenRow, TokenRowFile
from eagle.data.decontamination import OverlapFilter, benchmark_questions
from eagle.data.jobs import Planner
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prompts import Conversation, load_conversations, without_duplicates
from eagle.engine.batched import Answered, AnswerLimits, BatchedDecoder
from eagle.files import claim
from eagle.options import identity
from eagle.seeds import stable_number

SETTINGS = "settings.json"  # what the rows beside it are made with
HELD_OUT_ONE_IN = 50


def prepare(
    config: PrepareConfig,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: frozenset[int],
    benchmarks: dict[str, list[str]] | None = None,
) -> Counter[str]:
    """Append the missing rows of this shard to ``config.output``; returns why conversations were skipped.

    model: None where the conversations keep their answers. benchmarks: questions by name; None: the packaged ones.
    """
    if (model is None) != (config.answers == "original"):
        raise ValueError(f"answers is {config.answers!r}: only 'regenerate' takes a model, and it needs one")
    output, (index, count) = Path(config.output), config.parts
    claim(output / SETTINGS, identity(config), "use those or another --output")
    rows = TokenRowFile(output / f"conversations-{index}-of-{count}.jsonl")
    progress, skipped = PreparationProgress(config, rows), Counter[str]()
    conversations = select(config, skipped, benchmarks)
    missing = (c for c in conversations if stable_number(c.id) % count == index and c.id not in progress.done)
    planner = Planner(config, tokenizer, end_ids, skipped)
    answers = planner.original(missing) if model is None else _regenerated(planner, missing, model)
    for row in map(planner.row, answers if not progress.complete else ()):
        rows.append(row)
        progress.add(row)
        if progress.complete:
            break
    return skipped


def _regenerated(planner: Planner, conversations: Iterable[Conversation], model: PreTrainedModel) -> Iterator[Answered]:
    config = planner.config
    limits = AnswerLimits(config.max_new_tokens, config.max_length)
    decoder = BatchedDecoder(model, planner.end_ids, limits, config.num_lanes, config.group_size)
    return decoder.answer(planner.jobs(conversations))


def select(
    config: PrepareConfig, skipped: Counter[str], benchmarks: dict[str, list[str]] | None = None
) -> list[Conversation]:
    """The usable conversations, without duplicates and benchmark questions, in the order that the seed gives."""
    conversations: Iterable[Conversation] = load_conversations(config.prompts, config.split, skipped)
    conversations = without_duplicates(islice(conversations, config.limit or None), skipped)
    conversations = [*of_part(conversations, config.part, skipped)]
    if config.overlap_filter:
        overlap = OverlapFilter(benchmark_questions() if benchmarks is None else benchmarks)
        conversations = list(overlap.keep(conversations))
        skipped.update({f"overlaps with {name}": dropped for name, dropped in overlap.dropped.items()})
        print(f"benchmark questions found in the prompts: {overlap.report()}", file=sys.stderr)
    return sorted(conversations, key=lambda conversation: stable_number(config.seed, conversation.id, "order"))


def of_part(conversations: Iterable[Conversation], part: str, skipped: Counter[str]) -> Iterator[Conversation]:
    """Those of ``part``. An id alone decides, so that what was held out once is held out of every later training."""
    for conversation in conversations:
        if part in ("all", "held_out" if is_held_out(conversation.id) else "training"):
            yield conversation
        else:
            skipped[f"not of the part '{part}'"] += 1


def is_held_out(conversation_id: str) -> bool:
    """Pieces of a long conversation, named NAME_0, NAME_1 and so on in ShareGPT, are held out together."""
    return stable_number(conversation_id.rsplit("_", 1)[0], "held out") % HELD_OUT_ONE_IN == 0


class PreparationProgress:
    """Which rows exist, how many answer tokens they hold, and a line about it now and then."""

    def __init__(self, config: PrepareConfig, rows: TokenRowFile):
        self.limit = config.max_answer_tokens // config.parts[1]
        self.done: set[str] = set()
        self.answer_tokens = self._resumed = 0
        for row in rows:
            self._count(row)
        self._resumed, self._start, self._said = self.answer_tokens, time.monotonic(), time.monotonic()

    @property
    def complete(self) -> bool:
        return 0 < self.limit <= self.answer_tokens

    def _count(self, row: TokenRow) -> None:
        self.done.add(row.id)
        self.answer_tokens += row.num_answer_tokens

    def add(self, row: TokenRow) -> None:
        self._count(row)
        now = time.monotonic()
        if now - self._said > 30:
            self._said, rate = now, (self.answer_tokens - self._resumed) / (now - self._start)
            print(f"{len(self.done)} rows, {self.answer_tokens} answer tokens, {rate:.0f} a second", file=sys.stderr)

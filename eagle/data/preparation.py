"""From prompts to rows of training data: read, clean, answer, write; killed at any moment, it goes on where it was."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.data.answered_drafted import DraftedDecoder, NewSession
from eagle.data.answered_elsewhere import RemoteDecoder
from eagle.data.decontamination import OverlapFilter, benchmark_questions
from eagle.data.jobs import Planner
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prepared import PreparationProgress, held_rows
from eagle.data.prompts import Conversation, load_conversations, without_duplicates
from eagle.endpoint import Endpoint
from eagle.engine.batched import AnswerLimits, BatchedDecoder
from eagle.prompting import encode_prompt
from eagle.seeds import stable_number

HELD_OUT_ONE_IN = 50
Decoder = BatchedDecoder | DraftedDecoder | RemoteDecoder


def prepare(
    config: PrepareConfig,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: frozenset[int],
    benchmarks: dict[str, list[str]] | None = None,
    new_session: NewSession | None = None,
) -> Counter[str]:
    """Append the missing rows of this shard to ``config.output``; returns why conversations were skipped.

    model: None where the conversations keep their answers, and where a server answers. benchmarks: questions by name;
    None: the packaged ones. new_session: of the model with a drafter, where the configuration names a head; see
    `eagle.data.answered_drafted.drafted_sessions`. Raises OSError where the server cannot be reached (any more): the
    rows made so far stay.
    """
    if (model is not None) != config.answers_here:
        raise ValueError(f"answers is {config.answers!r}: only 'regenerate' takes a model, and it needs one")
    if (new_session is None) != (config.head is None):
        raise ValueError(f"head is {config.head!r}, new_session is {new_session}: both or neither")
    skipped = Counter[str]()
    with held_rows(config) as rows:
        planner = Planner(config, tokenizer, end_ids, skipped)
        progress = PreparationProgress(config, rows)
        missing = progress.missing(select(config, skipped, benchmarks))
        _answer(planner, missing if not progress.complete else (), progress, _decoder(planner, model, new_session))
    return skipped


def _answer(
    planner: Planner,
    conversations: Iterable[Conversation],
    progress: PreparationProgress,
    decoder: Decoder | None,
) -> None:
    """Write the rows of these conversations. Raises ValueError where none of them gives any."""
    jobs, before = planner.jobs(conversations), planner.skipped.copy()
    answers = planner.original(jobs) if decoder is None else decoder.answer(jobs)
    for made in planner.rows(answers):
        progress.add(made)
        if progress.complete:
            return
    if (refused := planner.skipped - before) and not progress.done:
        raise ValueError(f"no conversation could be answered: {told(refused)}")


def _decoder(planner: Planner, model: PreTrainedModel | None, new_session: NewSession | None) -> Decoder | None:
    """None where the conversations keep their answers."""
    config = planner.config
    limits = AnswerLimits(config.max_new_tokens, config.max_length)
    if config.answers == "original":
        return None
    if new_session is not None:
        return DraftedDecoder(new_session, planner.end_ids, limits, config.batch)
    if model is None:
        endpoint = Endpoint(str(config.endpoint), config.served_model)
        endpoint.check_tokenizer(partial(encode_prompt, planner.tokenizer))
        return RemoteDecoder(endpoint, planner.end_ids, limits, config.num_lanes)
    return BatchedDecoder(model, planner.end_ids, limits, config.num_lanes, config.group_size)


def select(
    config: PrepareConfig, skipped: Counter[str], benchmarks: dict[str, list[str]] | None = None
) -> list[Conversation]:
    """The usable conversations, without duplicates and benchmark questions, in the order that the seed gives.

    Raises ValueError with the counted reasons where none is left.
    """
    reasons = Counter[str]()
    found = list(islice(load_conversations(config.prompts, config.split, reasons), config.limit or None))
    if reasons:
        print(f"{config.prompts}: {len(found)} conversations; not used: {told(reasons)}", file=sys.stderr)
    conversations = [*of_part(without_duplicates(found, reasons, config.max_turns), config.part, reasons)]
    if config.overlap_filter:
        conversations = _without_benchmarks(conversations, benchmarks, reasons)
    if not conversations:
        raise ValueError(f"{config.prompts} holds no usable conversation: {told(reasons) or 'it is empty'}")
    skipped.update(reasons)
    return sorted(conversations, key=lambda conversation: stable_number(config.seed, conversation.id, "order"))


def told(reasons: Counter[str], most: int = 5) -> str:
    """Counts and reasons in one line."""
    line = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(most))
    return line + (f" and {len(reasons) - most} more reasons" if len(reasons) > most else "")


def _without_benchmarks(
    conversations: list[Conversation], benchmarks: dict[str, list[str]] | None, skipped: Counter[str]
) -> list[Conversation]:
    overlap = OverlapFilter(benchmark_questions() if benchmarks is None else benchmarks)
    kept = list(overlap.keep(conversations))
    skipped.update({f"overlaps with {name}": dropped for name, dropped in overlap.dropped.items()})
    print(f"benchmark questions found in the prompts: {overlap.report()}", file=sys.stderr)
    return kept


def of_part(conversations: Iterable[Conversation], part: str, skipped: Counter[str]) -> Iterator[Conversation]:
    """Those of ``part``. A name alone decides, so that what was held out once is held out of every later training."""
    for conversation in conversations:
        if part in ("all", "held_out" if is_held_out(conversation.group) else "training"):
            yield conversation
        else:
            skipped[f"not of the part '{part}'"] += 1


def is_held_out(group: str) -> bool:
    """Whether the conversation of this name is; the source says which piece belongs to which (`Conversation.group`)."""
    return stable_number(group, "held out") % HELD_OUT_ONE_IN == 0

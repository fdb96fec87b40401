"""What prepared data looks like: how much there is, how answers ended, how long conversations are."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from eagle.data.conversations import TokenRow

WIDTH = 40  # characters of the longest bar


@dataclass(frozen=True)
class Statistics:
    """Sums over rows; ``lengths`` counts rows by the power of two that their tokens reach."""

    num_conversations: int
    num_rows: int  # more than conversations where a template rewrites the history
    num_tokens: int
    num_answer_tokens: int
    num_answers: int
    finish: dict[str, int]  # answers by how they ended
    temperatures: dict[str, int]  # rows
    lengths: dict[int, int]  # rows with at most so many tokens, more than half of it


def collect_statistics(rows: Iterable[TokenRow]) -> Statistics:
    """One pass over ``rows``."""
    sums: Counter[str] = Counter()
    finish, temperatures, lengths = Counter[str](), Counter[str](), Counter[int]()
    conversations: set[str] = set()
    for row in rows:
        conversations.add(row.conversation)
        sums.update(rows=1, tokens=len(row.input_ids), answer_tokens=row.num_answer_tokens, answers=len(row.finish))
        finish.update(row.finish)
        temperatures["as given" if row.temperature is None else str(row.temperature)] += 1
        lengths[1 << (len(row.input_ids) - 1).bit_length()] += 1
    return Statistics(
        len(conversations),
        sums["rows"],
        sums["tokens"],
        sums["answer_tokens"],
        sums["answers"],
        dict(finish),
        dict(sorted(temperatures.items())),
        dict(sorted(lengths.items())),
    )


def as_text(statistics: Statistics, skipped: Counter[str]) -> str:
    """The statistics as text, with a histogram of lengths and the reasons why conversations were left out."""
    lines = [
        f"{statistics.num_conversations} conversations in {statistics.num_rows} rows, {statistics.num_tokens} tokens, "
        f"{statistics.num_answer_tokens} of them in {statistics.num_answers} answers",
        f"answers ended: {_counts(statistics.finish)}",
        f"rows by temperature: {_counts(statistics.temperatures)}",
        "rows by length in tokens:",
        *_histogram(statistics.lengths),
    ]
    if skipped:
        lines += ["left out:", *(f"  {count:7d}  {reason}" for reason, count in skipped.most_common())]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _histogram(lengths: dict[int, int]) -> list[str]:
    most = max(lengths.values(), default=1)
    return [f"  <= {top:6d}  {count:7d}  {'#' * -(-WIDTH * count // most)}" for top, count in lengths.items()]

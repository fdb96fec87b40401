"""What a trained head says of itself: a card to read, `README.md`, and in `config.json` the length it was trained on.

A head fades on contexts longer than those; what the shipped one loses stands in its card.
"""

from dataclasses import dataclass
from pathlib import Path

from eagle.files import read_json, write_json, write_text

CARD, CONFIG, TRAINED_LENGTH = "README.md", "config.json", "trained_length"


@dataclass(frozen=True)
class HeadCard:
    """What is known of a head while it is trained."""

    target: str
    trained_length: int  # tokens of the longest conversation it was trained on
    num_conversations: int
    tokens_seen: int
    step: int
    held_out_overlap: float  # the best so far, mean over the training-time-test steps

    def __str__(self) -> str:
        return f"""# EAGLE-3 draft head for {self.target}

{self.num_conversations:,} conversations, {self.tokens_seen:,} tokens seen in {self.step:,} optimizer steps. Best mean
overlap with the target's law on held-out conversations so far: {self.held_out_overlap:.3f}.

**Limits**: trained on conversations of at most {self.trained_length:,} tokens (`trained_length` in `config.json`). A
head fades on longer contexts: the text stays right, the speed-up goes. For longer ones train on longer conversations
(`max_length`). Serve with the chat template and the system prompt of the training data.

Numbers for `--tree auto` are measured with `eagle-hsd trees record` and `eagle-hsd trees fit`.
"""


def write_card(directory: Path, card: HeadCard) -> None:
    """Add the card to a head that was written."""
    note_length(directory, card.trained_length)
    write_text(directory / CARD, str(card))


def note_length(directory: Path, trained_length: int) -> None:
    """Write the length into the head's config.json."""
    write_json(directory / CONFIG, read_json(directory / CONFIG) | {TRAINED_LENGTH: trained_length})


def read_length(directory: Path) -> int | None:
    """The length in the head's config.json; None for heads of others, which name none."""
    config = read_json(directory / CONFIG)
    length = config.get(TRAINED_LENGTH) if isinstance(config, dict) else None
    return length if type(length) is int and length > 0 else None

"""What a run works on, loaded: the target or what is stored of it, and the conversations."""

from dataclasses import dataclass

from eagle.data.batches import Example
from eagle.engine.target import Target
from eagle.training.target_snapshot import TargetFacts


@dataclass(frozen=True, eq=False)
class Setting:
    target: Target | None  # None where only stored features are read
    facts: TargetFacts
    examples: list[Example]
    held_out: list[Example]

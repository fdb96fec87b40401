"""A family of tiny models with one tokenizer: a target with a head, and a smaller sibling with one."""

from pathlib import Path

from transformers import LlamaConfig

from eagle.checkpoints.flat import save_head
from eagle.engine.target import Target
from eagle.levels.loaded import Candidates, Member
from eagle.levels.specs import LookupSpec
from tests import tiny_text
from tests.tiny import tiny_head


def model(name: str, seed: int, **changes) -> Target:
    config = LlamaConfig(**{**tiny_text.shape(), **changes})
    return Target(tiny_text.target(config, seed), tiny_text.tokenizer(), name=name)


def family(**changes) -> Candidates:
    """In float32; `changes` are those of the sibling's configuration."""
    target, small = model("big", 0), model("small", 1, hidden_size=24, **changes)
    member = Member(small, tiny_head(small), tiny_text.VOCAB_SIZE, nodes=(4,))
    return Candidates(target, tiny_head(target), {"small": member}, LookupSpec(), nodes=(4, 6))


def saved(folder: Path) -> dict[str, str]:
    """The same on disk: paths of target, small and its head."""
    own = family()
    paths = {name: str(folder / name) for name in ("target", "small", "head", "small_head")}
    small = own.member("small")
    for target, place in ((own.target, "target"), (small.model, "small")):
        target.model.save_pretrained(paths[place])
        assert target.tokenizer is not None
        target.tokenizer.save_pretrained(paths[place])
    for head, place in ((own.head, "head"), (small.head, "small_head")):
        assert head is not None
        save_head(head, paths[place])
    return paths

"""A tiny model and a head of it on disk, as users have them."""

from pathlib import Path

from eagle.checkpoints.flat import save_head
from eagle.engine.target import Target
from tests import tiny_text
from tests.tiny import tiny_head


def write_pair(root: Path) -> None:
    """`root / "model"` with its tokenizer, and `root / "head"`."""
    model = tiny_text.target()
    model.generation_config.pad_token_id = 256
    model.save_pretrained(root / "model")
    tiny_text.tokenizer().save_pretrained(root / "model")
    save_head(tiny_head(Target(model), draft_vocab_size=150), root / "head")

"""Small training runs: random conversations for a tiny random target, on one thread."""

import json
from pathlib import Path
from typing import Any

import torch

from eagle.data.batches import Example
from eagle.drafters.head import DraftHead
from eagle.engine.target import Target
from eagle.training.initialise import make_head
from eagle.training.run import make_accelerator, make_signals
from eagle.training.target_snapshot import TargetFacts
from eagle.training.train_config import TrainConfig
from eagle.training.trainer import Material, Trainer
from tests import tiny_text
from tests.tiny import VOCAB_SIZE, tiny_target

NUM_HELD_OUT = 4
TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"


def example(name: int, length: int, prompt: int = 5) -> Example:
    """A conversation of random tokens, the first `prompt` without a loss."""
    ids = torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(name), dtype=torch.int32)
    return Example(str(name), ids, torch.arange(length) >= prompt)


def examples(count: int = 16) -> list[Example]:
    return [example(name, 20 + name % 13) for name in range(count)]


def config(output: Path, **changes) -> TrainConfig:
    values = {
        "data": "unused",
        "draft_vocab_size": 60,
        "num_steps": 3,
        "max_length": 64,
        "tokens_per_batch": 128,
        "batches_per_step": 2,
        "num_epochs": 3,
        "warmup_steps": 2,
        "precision": "no",
        "target_dtype": "float32",
        "init_mlp": "random",
        "intermediate_size": 48,
        "evaluate_every": 2,
        "save_every": 2,
        "log_every": 1,
    }
    return TrainConfig(output=str(output), **{**values, **changes})


def setting(conversations: list[Example] | None = None, held_out: list[Example] | None = None) -> Material:
    target = tiny_target()
    conversations = examples() if conversations is None else conversations
    held_out = conversations[:NUM_HELD_OUT] if held_out is None else held_out
    return Material(target, TargetFacts.of(target), conversations, held_out)


def trainer(config: TrainConfig, on: Material, head: DraftHead | None = None) -> Trainer:
    Path(config.output).mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config.precision)
    head = head or make_head(config.initialisation, on.facts, on.target, on.examples)
    return Trainer(config, head, make_signals(config.features, on, accelerator), on, accelerator)


def trained_head(config: TrainConfig, on: Material, stop_after: int | None = None) -> DraftHead:
    run = trainer(config, on)
    run.run(stop_after)
    return run.accelerator.unwrap_model(run._module).head


def save_target(directory: Path, seed: int = 0) -> Target:
    """A tiny target with a tokenizer on disk, as `load_target` reads it."""
    model = tiny_text.target(seed=seed)
    model.save_pretrained(directory)
    tiny_text.tokenizer().save_pretrained(directory)
    return Target(model)


def save_rows(path: Path, count: int, vocab_size: int = tiny_text.VOCAB_SIZE) -> None:
    """Prepared conversations as `read_conversations` reads them."""
    with path.open("w", encoding="utf-8") as file:
        for name in range(count):
            generator = torch.Generator().manual_seed(name)
            ids = torch.randint(vocab_size, (24 + name % 9,), generator=generator).tolist()
            row = {"id": str(name), "source": "test", "temperature": 1.0, "seed": 0, "messages": [], "finish": ["stop"]}
            file.write(json.dumps(row | {"input_ids": ids, "assistant_spans": [[6, len(ids)]]}) + "\n")


def script_flags(directory: Path) -> dict[str, Any]:
    """Flags of a run of the script in `directory`, beside an empty file of options."""
    save_target(directory / "target")
    save_rows(directory / "rows.jsonl", 24)
    (directory / "config.yaml").write_text("data: unused\n")
    return {
        "target": str(directory / "target"),
        "data": str(directory / "rows.jsonl"),
        "features": str(directory / "features"),
        "fill_features": True,
        "num_held_out": 4,
    }

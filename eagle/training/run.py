"""From a configuration to a trained head: what `scripts/train.py` calls."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator

from eagle.checkpoint import load_head, write_json
from eagle.draft import DraftHead
from eagle.loading import load_target
from eagle.target import Target
from eagle.training.batches import Example, fingerprint, read_examples, split_held_out
from eagle.training.config import TrainConfig
from eagle.training.initialise import new_head
from eagle.training.metrics import Evaluation
from eagle.training.signals import OnlineSignals
from eagle.training.states import check_same_run
from eagle.training.trainer import Trainer
from eagle.training.vocabulary import build_vocabulary, load_vocabulary
from eagle.vocab import DraftVocabulary

MAY_CHANGE = ("evaluate_every", "save_every", "keep_states", "log_every")  # between start and resume


def train(config: TrainConfig, accelerator: Accelerator | None = None) -> Evaluation:
    """Train or resume the run at `config.output`. Raises ValueError when it was started with something else."""
    accelerator = accelerator or make_accelerator(config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    target = load_target(config.target, getattr(torch, config.target_dtype), accelerator.device)
    examples, held_out = load_examples(config, target, accelerator)
    if accelerator.is_main_process:
        check_same_run(output, describe(config, target, examples, held_out))
    accelerator.wait_for_everyone()
    head = make_head(config, target, examples)
    trainer = Trainer(config, head, OnlineSignals(target), examples, held_out, accelerator)
    tokens, parameters = sum(map(len, examples)), sum(p.numel() for p in head.parameters())
    accelerator.print(
        f"{len(examples)} conversations, {tokens / 1e6:.2f} M tokens; {len(held_out)} held out; {trainer.num_steps} "
        f"steps, {trainer.progress.step} done; head of {parameters / 1e6:.1f} M parameters"
    )
    return trainer.run()


def make_accelerator(config: TrainConfig) -> Accelerator:
    """One process or as many as `accelerate launch` started."""
    return Accelerator(mixed_precision=config.precision, step_scheduler_with_optimizer=False)


def load_examples(config: TrainConfig, target: Target, accelerator: Accelerator) -> tuple[list[Example], list[Example]]:
    """Training and held-out conversations, those of the first start when the run is resumed.

    Files that grow while a run trains are no trouble: conversations that came later are left out, with a message.
    """
    limit = min(config.max_length, target.context_limit)
    examples, skipped = read_examples(config.data, limit, target.vocab_size)
    for reason, count in skipped.items():
        accelerator.print(f"skipped {count} conversations: {reason}")
    examples = frozen(Path(config.output) / "conversations.json", examples, accelerator)
    if config.held_out_data is None:
        return split_held_out(examples, config.num_held_out)
    held_out, _ = read_examples(config.held_out_data, limit, target.vocab_size)
    known = {example.id for example in held_out}
    return [e for e in examples if e.id not in known], held_out[: config.num_held_out]


def frozen(path: Path, examples: Sequence[Example], accelerator: Accelerator) -> list[Example]:
    """The conversations whose ids `path` lists, in its order; on the first start it is written.

    Raises ValueError when some are no longer there.
    """
    if accelerator.is_main_process and not path.is_file():
        write_json(path, [example.id for example in examples])
    accelerator.wait_for_everyone()
    wanted, found = json.loads(path.read_text(encoding="utf-8")), {example.id: example for example in examples}
    if lost := [name for name in wanted if name not in found]:
        raise ValueError(f"{len(lost)} conversations this run started with are gone, as {lost[0]}: restore the data")
    if len(found) > len(wanted):
        accelerator.print(f"{len(found) - len(wanted)} conversations came after the run began and are left out")
    return [found[name] for name in wanted]


def make_head(config: TrainConfig, target: Target, examples: Sequence[Example]) -> DraftHead:
    """A new head, or the one to go on from, with float32 master weights."""
    if config.initial_head is not None:
        return load_head(config.initial_head, target, torch.float32).train()
    return new_head(config, target, draft_vocabulary(config, target, examples)).to(target.device)


def draft_vocabulary(config: TrainConfig, target: Target, examples: Sequence[Example]) -> DraftVocabulary:
    """The stored vocabulary, or the most frequent tokens of the training conversations' answers."""
    if config.vocabulary is not None:
        vocabulary, _ = load_vocabulary(Path(config.vocabulary), target.name, target.vocab_size)
        return vocabulary
    answers = torch.cat([example.ids[example.loss_mask] for example in examples]).long()
    counts = torch.bincount(answers, minlength=target.vocab_size)  # (V,)
    return build_vocabulary(counts, config.draft_vocab_size, always=target.end_token_ids)


def describe(
    config: TrainConfig, target: Target, examples: Sequence[Example], held_out: Sequence[Example]
) -> dict[str, object]:
    """What must be the same when a run is resumed."""
    settings = {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE}
    return {
        **settings,
        "target_name": target.name,
        "data_sha256": fingerprint(examples),
        "held_out_sha256": fingerprint(held_out),
    }

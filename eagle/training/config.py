"""The configuration of a training run: one flag = one field = one YAML key."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eagle.training.loss import LossWeights


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on; checked at construction, ValueError names the field, its value and the limit."""

    output: str  # directory: best/ and last/ hold ready heads, states/ what resuming needs
    data: str | None = (
        None  # prepared conversations: a file, or a directory of conversations*.jsonl; none: those stored
    )

    target: str | None = None  # directory or Hugging Face id; none: the embedded SmolLM2
    target_dtype: str = "bfloat16"
    features: str | None = None  # directory of stored features; none: the target runs beside the head
    fill_features: bool = False  # run the target for what is not stored yet, and store it: later epochs only read

    vocabulary: str | None = None  # a stored draft vocabulary; none: counted from the data
    draft_vocab_size: int = 8192
    intermediate_size: int | None = None  # none: the target's, like the three below
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    initial_head: str | None = None  # go on from this head's weights (a second stage); its vocabulary is kept
    init_lm_head: str = "target"  # target: the rows of its output layer; random
    init_norms: str = "target"  # target: its final norm, and its last layer's; ones
    init_mlp: str = "target"  # target: its last layer's; random
    init_fc: str = "high"  # hidden state = the high feature; average: of the three; random

    num_steps: int = 4  # of the training-time test
    step_decay: float = 0.8  # step j weighs step_decay ** j
    loss_cross_entropy: float = 1.0
    loss_kl: float = 0.0
    loss_total_variation: float = 0.0
    loss_log_overlap: float = 0.0
    loss_fraction: float = 1.0  # of the loss positions, chosen at random, that are used: saves output layers
    feature_noise: float = 0.0  # uniform noise of this half width on the features

    max_length: int = 1024  # longer conversations are cut
    tokens_per_batch: int = 4096  # of one forward, padding included
    batches_per_step: int = 1  # forwards behind one optimizer step, over all processes together
    num_epochs: float = 1.0
    max_steps: int | None = None  # stop earlier; the schedule ends there
    seed: int = 0

    learning_rate: float = 5e-4
    final_learning_rate: float = 0.1  # as a fraction, at the end of the cosine
    warmup_steps: int = 50
    weight_decay: float = 0.0
    adam_beta2: float = 0.95
    clip_norm: float = 0.5
    precision: str = "bf16"  # of the head's products; master weights stay float32. no: float32
    gradient_checkpointing: bool = False

    num_held_out: int = 64  # conversations kept out of training and used for the evaluations
    held_out_data: str | None = None  # take them from here instead
    evaluate_every: int = 200  # optimizer steps
    save_every: int = 200
    keep_states: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_ranges(self)
        LossWeights(self.loss_cross_entropy, self.loss_kl, self.loss_total_variation, self.loss_log_overlap)
        if self.data is None and (self.features is None or self.fill_features):
            raise ValueError("data is missing: without it, features must name a directory of stored features")
        if self.fill_features and self.features is None:
            raise ValueError("fill_features is set, but features names no directory to fill")

    @property
    def loss_weights(self) -> LossWeights:
        return LossWeights(self.loss_cross_entropy, self.loss_kl, self.loss_total_variation, self.loss_log_overlap)

    @property
    def decay(self) -> list[float]:
        """The weight of every step."""
        return [self.step_decay**step for step in range(self.num_steps)]


CHOICES = {
    "target_dtype": ("bfloat16", "float16", "float32"),
    "init_lm_head": ("target", "random"),
    "init_norms": ("target", "ones"),
    "init_mlp": ("target", "random"),
    "init_fc": ("high", "average", "random"),
    "precision": ("bf16", "no"),
}
AT_LEAST = {
    "draft_vocab_size": 1,
    "num_steps": 1,
    "max_length": 4,
    "tokens_per_batch": 4,
    "batches_per_step": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "feature_noise": 0,
    "num_held_out": 1,
    "evaluate_every": 1,
    "save_every": 1,
    "keep_states": 1,
    "log_every": 1,
}
ABOVE_ZERO = ("step_decay", "loss_fraction", "num_epochs", "learning_rate", "clip_norm")
AT_MOST_ONE = ("step_decay", "loss_fraction", "final_learning_rate", "adam_beta2")


def _check_choices(config: TrainConfig) -> None:
    for name, choices in CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} is '{getattr(config, name)}', choose one of {', '.join(choices)}")


def _check_ranges(config: TrainConfig) -> None:
    for name, least in AT_LEAST.items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be at least {least}")
    for name in ABOVE_ZERO:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be larger than 0")
    for name in AT_MOST_ONE:
        if getattr(config, name) > 1:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be at most 1")
    if config.max_length > config.tokens_per_batch:
        raise ValueError(
            f"max_length {config.max_length} is larger than tokens_per_batch {config.tokens_per_batch}: "
            "a conversation would not fit a batch; raise tokens_per_batch"
        )


def read_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """A YAML file with `overrides` put over it. Raises ValueError for keys that do not exist, listing those that do."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    values |= overrides or {}
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    if unknown := sorted(values.keys() - set(names)):
        raise ValueError(f"{path}: unknown keys {', '.join(unknown)}; there are {', '.join(names)}")
    required = [f.name for f in dataclasses.fields(TrainConfig) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{path}: keys {', '.join(missing)} are missing; give them in the file or as flags")
    return TrainConfig(**values)

"""The configuration of a training run: one flag = one field = one YAML key.

`TrainConfig` holds them side by side, as users write them. Code takes the part it needs: a part's fields have the names
of the options, and `TrainConfig` hands the parts out.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

from eagle.load_options import LoadOptions
from eagle.options import DTYPES, check_options, option
from eagle.training.loss import LossWeights

Part = TypeVar("Part")
MOST_STEPS, MOST_TOKENS, MOST_WIDTH = 10**9, 10**8, 10**6


@dataclass(frozen=True)
class Sources:
    """Where the target, its stored features and the conversations come from."""

    target: str | None
    target_dtype: str
    shard_target: bool
    features: str | None
    fill_features: bool
    data: str | None
    prepare: str | None
    held_out_data: str | None
    num_held_out: int
    max_length: int


@dataclass(frozen=True)
class Initialisation:
    """What a head is before its first step."""

    initial_head: str | None
    vocabulary: str | None
    draft_vocab_size: int
    intermediate_size: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    init_lm_head: str
    init_norms: str
    init_mlp: str
    init_fc: str
    seed: int


@dataclass(frozen=True)
class Unrolling:
    """The training-time test: how many steps, what they weigh, how they are computed."""

    num_steps: int
    step_decay: float
    loss_weights: LossWeights
    precision: str
    gradient_checkpointing: bool

    @property
    def decay(self) -> list[float]:
        """The weight of every step."""
        return [self.step_decay**step for step in range(self.num_steps)]


@dataclass(frozen=True)
class Batching:
    """Which conversations every optimizer step reads."""

    tokens_per_batch: int
    packing: bool
    batches_per_step: int
    num_epochs: float
    max_steps: int | None
    seed: int


@dataclass(frozen=True)
class Chance:
    """What of a batch is left to chance."""

    loss_fraction: float
    feature_noise: float
    seed: int


@dataclass(frozen=True)
class Optimization:
    """Which optimizer moves the weights, and what holds it back."""

    optimizer: str
    weight_decay: float
    adam_beta2: float


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run."""

    learning_rate: float
    final_learning_rate: float
    warmup_steps: int


@dataclass(frozen=True)
class Intervals:
    """How many optimizer steps lie between two evaluations, states and records."""

    evaluate_every: int
    save_every: int
    log_every: int


@dataclass(frozen=True)
class TrainConfig(LoadOptions):
    """Everything a run depends on; checked at construction, ValueError names the field, its value and the limit."""

    output: str = option("runs/head", "directory: best/ and last/ hold ready heads, states/ what resuming needs")
    data: str | None = option(None, "prepared conversations, a file or a directory; none: those with stored features")
    prepare: str | None = option(None, "a file of configs/data that makes the data when it is not there yet")

    target: str | None = option(None, "a model of the hub, a directory or a .gguf file; none: the packaged SmolLM2")
    target_dtype: str = option("bfloat16", "of the target's weights", choices=DTYPES)
    shard_target: bool = option(
        False, "divide the target's layers among the processes (FSDP2), which all read with them", may_change=True
    )
    features: str | None = option(
        None, "directory of stored features; none: the target runs beside the head", may_change=True
    )
    fill_features: bool = option(
        False, "run the target for what is not stored yet and store it: later epochs read", may_change=True
    )

    vocabulary: str | None = option(None, "a stored draft vocabulary; none: the data's most frequent answer tokens")
    draft_vocab_size: int = option(8192, "how many of them", at_least=1, at_most=MOST_TOKENS)
    intermediate_size: int | None = option(None, "of the head; none: the target's", at_least=1, at_most=MOST_WIDTH)
    num_attention_heads: int | None = option(None, "of the head; none: the target's", at_least=1, at_most=MOST_WIDTH)
    num_key_value_heads: int | None = option(None, "of the head; none: the target's", at_least=1, at_most=MOST_WIDTH)
    head_dim: int | None = option(None, "of the head; none: the target's", at_least=1, at_most=MOST_WIDTH)
    initial_head: str | None = option(
        None, "a second stage: start from this head, with its vocabulary or the one given"
    )
    init_lm_head: str = option(
        "target", "'target': the rows of its output layer, or 'random'", choices=("target", "random")
    )
    init_norms: str = option(
        "target",
        "'target': its final norm and its last layer's, 'ones', or 'soft': logits of a fresh head spread by about 1",
        choices=("target", "ones", "soft"),
    )
    init_mlp: str = option("target", "'target': its last layer's, or 'random'", choices=("target", "random"))
    init_fc: str = option(
        "high",
        "hidden state = 'high' feature, 'average' of the three, or 'random'",
        choices=("high", "average", "random"),
    )

    condition_features: bool = option(True, "the optimizer sees each feature divided by its usual size")

    num_steps: int = option(4, "J, draft steps of the training-time test", at_least=1, at_most=64)
    step_decay: float = option(0.8, "step j weighs step_decay ** j", above=0, at_most=1)
    loss_cross_entropy: float = option(
        1.0, "weight of the soft cross-entropy on the draft vocabulary", at_least=0, at_most=1e6
    )
    loss_kl: float = option(0.0, "weight of the KL divergence there", at_least=0, at_most=1e6)
    loss_total_variation: float = option(0.0, "weight of 1 - overlap", at_least=0, at_most=1e6)
    loss_log_overlap: float = option(0.0, "weight of -log overlap", at_least=0, at_most=1e6)
    loss_coupled: float = option(
        0.0, "weight of the cross-entropy under coupled decoding's noise", at_least=0, at_most=1e6
    )
    loss_fraction: float = option(
        1.0, "share of the loss positions to use, chosen at random: saves output layers", above=0, at_most=1
    )
    feature_noise: float = option(0.0, "half width of uniform noise on the features", at_least=0, at_most=1e6)

    max_length: int = option(1024, "tokens; longer conversations are cut", at_least=4, at_most=MOST_TOKENS)
    tokens_per_batch: int = option(4096, "of one forward, padding included", at_least=4, at_most=MOST_TOKENS)
    packing: bool = option(False, "conversations of any length behind each other in one row, in place of padded rows")
    batches_per_step: int = option(
        1, "forwards behind one optimizer step, over all processes together", at_least=1, at_most=1024
    )
    num_epochs: float = option(1.0, "passes over the data, fractions too", above=0, at_most=10_000)
    max_steps: int | None = option(
        None, "stop after so many optimizer steps; the schedule ends there", at_least=1, at_most=MOST_STEPS
    )
    seed: int = option(0, "decides order, random weights and chosen positions", at_least=0)

    optimizer: str = option(
        "adamw",
        "'adamw' for all weights, or 'muon' for the matrices inside fusion and layer",
        choices=("adamw", "muon"),
    )
    learning_rate: float = option(5e-4, "at its peak", above=0)
    final_learning_rate: float = option(0.1, "at the end of the cosine, as a share of the peak", at_least=0, at_most=1)
    warmup_steps: int = option(50, "optimizer steps of linear warm-up", at_least=0, at_most=MOST_STEPS)
    weight_decay: float = option(0.0, "AdamW's", at_least=0, at_most=1e3)
    adam_beta2: float = option(0.95, "AdamW's; its beta1 is 0.9", at_least=0, below=1)
    clip_norm: float = option(0.5, "largest gradient norm", above=0, at_most=1e6)
    precision: str = option(
        "bf16", "of the head's products, or 'no' for float32; master weights stay float32", choices=("bf16", "no")
    )
    gradient_checkpointing: bool = option(False, "compute every step again in the backward pass: less memory, slower")

    num_held_out: int = option(
        64, "conversations kept out of training, for the evaluations", at_least=1, at_most=MOST_TOKENS
    )
    held_out_data: str | None = option(None, "take them from here instead")
    evaluate_every: int = option(200, "optimizer steps", may_change=True, at_least=1, at_most=MOST_STEPS)
    save_every: int = option(
        200, "optimizer steps; writes last/ and a state", may_change=True, at_least=1, at_most=MOST_STEPS
    )
    keep_states: int = option(
        2,
        "newest states to keep; older ones serve where the newest is damaged",
        may_change=True,
        at_least=2,
        at_most=1000,
    )
    log_every: int = option(10, "optimizer steps", may_change=True, at_least=1, at_most=MOST_STEPS)

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_length > self.tokens_per_batch:
            raise ValueError(
                f"max_length {self.max_length} is larger than tokens_per_batch {self.tokens_per_batch}: "
                "a conversation would not fit a batch; raise tokens_per_batch"
            )
        _ = self.loss_weights  # refuses what is no loss
        if self.data is None and (self.features is None or self.fill_features):
            raise ValueError("data is missing: without it, features must name a directory of stored features")
        if self.fill_features and self.features is None:
            raise ValueError("fill_features is set, but features names no directory to fill")
        if self.tp > 1:
            raise ValueError(f"tp is {self.tp}: processes of training have batches of their own, take shard_target")
        if self.shard_target:
            self._check_sharded()

    def _check_sharded(self) -> None:
        """Raises ValueError for what only some of the processes would do, and for other ways to place the target."""
        usual = dict.fromkeys(("features", "prepare", "device_map", "quantization")) | {"compile": "off"}
        for name, value in usual.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"shard_target is set, and {name} is '{getattr(self, name)}': all processes make the target's "
                    f"passes together, in one place and precision; leave {name} out, or shard_target"
                )

    @property
    def loss_weights(self) -> LossWeights:
        return LossWeights(**{field.name: getattr(self, f"loss_{field.name}") for field in fields(LossWeights)})

    @property
    def sources(self) -> Sources:
        return self._part(Sources)

    @property
    def initialisation(self) -> Initialisation:
        return self._part(Initialisation)

    @property
    def unrolling(self) -> Unrolling:
        return self._part(Unrolling)

    @property
    def batching(self) -> Batching:
        return self._part(Batching)

    @property
    def chance(self) -> Chance:
        return self._part(Chance)

    @property
    def optimization(self) -> Optimization:
        return self._part(Optimization)

    @property
    def schedule(self) -> Schedule:
        return self._part(Schedule)

    @property
    def intervals(self) -> Intervals:
        return self._part(Intervals)

    def _part(self, kind: type[Part]) -> Part:
        """A part, its fields filled by the options of the same names."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})  # type: ignore[arg-type]

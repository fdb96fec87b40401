"""The configuration of a training run: one flag = one field = one YAML key."""

from dataclasses import dataclass

from eagle.options import DTYPES, check_options, option
from eagle.training.loss import LossWeights


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on; checked at construction, ValueError names the field, its value and the limit."""

    output: str = option("runs/head", "directory: best/ and last/ hold ready heads, states/ what resuming needs")
    data: str | None = option(None, "prepared conversations, a file or a directory; none: those with stored features")
    prepare: str | None = option(None, "a file of configs/data that makes the data when it is not there yet")

    target: str | None = option(None, "a model of the hub, a directory or a .gguf file; none: the packaged SmolLM2")
    target_dtype: str = option("bfloat16", "of the target's weights", choices=DTYPES)
    features: str | None = option(
        None, "directory of stored features; none: the target runs beside the head", may_change=True
    )
    fill_features: bool = option(
        False, "run the target for what is not stored yet and store it: later epochs read", may_change=True
    )

    vocabulary: str | None = option(None, "a stored draft vocabulary; none: the data's most frequent answer tokens")
    draft_vocab_size: int = option(8192, "how many of them", at_least=1)
    intermediate_size: int | None = option(None, "of the head; none: the target's")
    num_attention_heads: int | None = option(None, "of the head; none: the target's")
    num_key_value_heads: int | None = option(None, "of the head; none: the target's")
    head_dim: int | None = option(None, "of the head; none: the target's")
    initial_head: str | None = option(
        None, "a second stage: start from this head, with its vocabulary or the one given"
    )
    init_lm_head: str = option(
        "target", "'target': the rows of its output layer, or 'random'", choices=("target", "random")
    )
    init_norms: str = option(
        "target",
        "'target': its final norm and its last layer's, 'ones', or 'soft': small",
        choices=("target", "ones", "soft"),
    )
    init_mlp: str = option("target", "'target': its last layer's, or 'random'", choices=("target", "random"))
    init_fc: str = option(
        "high",
        "hidden state = 'high' feature, 'average' of the three, or 'random'",
        choices=("high", "average", "random"),
    )

    condition_features: bool = option(True, "the optimizer sees each feature divided by its usual size")

    num_steps: int = option(4, "J, draft steps of the training-time test", at_least=1)
    step_decay: float = option(0.8, "step j weighs step_decay ** j", above=0, at_most=1)
    loss_cross_entropy: float = option(1.0, "weight of the soft cross-entropy on the draft vocabulary")
    loss_kl: float = option(0.0, "weight of the KL divergence there")
    loss_total_variation: float = option(0.0, "weight of 1 - overlap")
    loss_log_overlap: float = option(0.0, "weight of -log overlap")
    loss_fraction: float = option(
        1.0, "share of the loss positions to use, chosen at random: saves output layers", above=0, at_most=1
    )
    feature_noise: float = option(0.0, "half width of uniform noise on the features", at_least=0)

    max_length: int = option(1024, "tokens; longer conversations are cut", at_least=4)
    tokens_per_batch: int = option(4096, "of one forward, padding included", at_least=4)
    packing: bool = option(False, "conversations of any length behind each other in one row, in place of padded rows")
    batches_per_step: int = option(1, "forwards behind one optimizer step, over all processes together", at_least=1)
    num_epochs: float = option(1.0, "passes over the data, fractions too", above=0)
    max_steps: int | None = option(None, "stop after so many optimizer steps; the schedule ends there")
    seed: int = option(0, "decides order, random weights and chosen positions")

    optimizer: str = option(
        "adamw",
        "'adamw' for all weights, or 'muon' for the matrices inside fusion and layer",
        choices=("adamw", "muon"),
    )
    learning_rate: float = option(5e-4, "at its peak", above=0)
    final_learning_rate: float = option(0.1, "at the end of the cosine, as a share of the peak", at_most=1)
    warmup_steps: int = option(50, "optimizer steps of linear warm-up", at_least=0)
    weight_decay: float = option(0.0, "AdamW's", at_least=0)
    adam_beta2: float = option(0.95, "AdamW's; its beta1 is 0.9", at_most=1)
    clip_norm: float = option(0.5, "largest gradient norm", above=0)
    precision: str = option(
        "bf16", "of the head's products, or 'no' for float32; master weights stay float32", choices=("bf16", "no")
    )
    gradient_checkpointing: bool = option(False, "compute every step again in the backward pass: less memory, slower")

    num_held_out: int = option(64, "conversations kept out of training, for the evaluations", at_least=1)
    held_out_data: str | None = option(None, "take them from here instead")
    evaluate_every: int = option(200, "optimizer steps", may_change=True, at_least=1)
    save_every: int = option(200, "optimizer steps; writes last/ and a state", may_change=True, at_least=1)
    keep_states: int = option(2, "newest states to keep", may_change=True, at_least=1)
    log_every: int = option(10, "optimizer steps", may_change=True, at_least=1)

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_length > self.tokens_per_batch:
            raise ValueError(
                f"max_length {self.max_length} is larger than tokens_per_batch {self.tokens_per_batch}: "
                "a conversation would not fit a batch; raise tokens_per_batch"
            )
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

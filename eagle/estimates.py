"""What training a head takes, computed from configurations alone: parameters, memory of a GPU, hours, disk.

Nothing is measured here and no weight is read. Where a number is not arithmetic it says so:

    FLOP a token    target: 2 a weight of its layers and its output layer, and attention to T / 2 tokens on average
                    head: 6 a weight of `fc`, and for each of J steps 6 a weight of layer and output layer (backward
                    costs twice the forward), and its attention; 2 a weight of the target's output rows for the loss
    head, a weight  4 bytes, 4 of its gradient, 8 of AdamW, 4 of DDP's buckets, 2 of the copy in bfloat16
    activations     of a token and step 38 H + 8 I + 5 Q + 4 K bytes, counted from what autograd keeps of small heads in
                    bfloat16 (`tests/test_estimates.py`); with gradient checkpointing 12.5 H + 4 K, and one step whole
    hours           FLOP / (GPUs * peak * utilisation); the utilisation is an assumption

Letters: H hidden size, I width of the MLP, Q and K of queries and keys, V and Vd vocabularies, L layers, J steps, T
tokens of a conversation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from eagle.drafters.head import DraftHead, HeadConfig
from eagle.engine.feature_layers import default_feature_layers
from eagle.engine.layers import decoder_layers
from eagle.engine.shape import attention_shape, feed_forward_size
from eagle.loading import find_model
from eagle.model_files import read_config
from eagle.options import check_options, option
from eagle.vocab import DraftVocabulary

GIGA, BYTES = 1e9, 2  # of a weight in bfloat16
HEAD_BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "bfloat16 copies": 2}
BUCKETS = 4  # of DDP
IN_FLIGHT = 2  # layers of a divided target that are whole at a time: one at work, the next one on its way
SUMMARY_ROWS = 128  # of the output layer at once, in float32
# as their publishers' config.json has them
KNOWN: Mapping[str, dict[str, Any]] = {
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    "llama-3.3-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}
LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class EstimateOptions:
    """Options of `eagle-hsd estimate`. Raises ValueError at construction for values outside their range."""

    target: str | None = option(None, f"a model, its config.json alone is read, or one of {', '.join(KNOWN)}")
    num_gpus: int = option(8, "GPUs, a process each", at_least=1, at_most=4096)
    gpu_gb: float = option(80.0, "memory of a GPU, GB of 1e9 bytes", above=0)
    peak_tflops: float = option(989.0, "of a GPU, dense bfloat16; 989: H100 SXM", above=0)
    utilisation: float = option(0.4, "share of the peak that is reached; an assumption", above=0, at_most=1)
    tokens: float = option(500e6, "of all conversations, every epoch counted", at_least=1)
    length: int = option(1024, "tokens of a conversation, on average", at_least=2)
    tokens_per_batch: int = option(8192, "of one forward", at_least=4)
    draft_vocab_size: int = option(32000, "Vd", at_least=1)
    num_steps: int = option(4, "J, steps of the training-time test", at_least=1, at_most=64)
    shard_target: bool = option(False, "the target's layers are divided among the GPUs")
    shard_head: bool = option(False, "the head's weights, gradients and optimizer are (FSDP2)")
    stored_features: bool = option(False, "features are read from disk, no target is loaded")
    gradient_checkpointing: bool = option(False, "steps are computed again in the backward pass")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Estimate:
    """Computed for one target and one set of options."""

    config: Any  # of transformers, of the text model
    options: EstimateOptions

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Parameters of the target: of one layer, of all, of its output layer, of all but its layers."""
        with torch.device("meta"):
            model: Any = cast(Any, AutoModelForCausalLM).from_config(self.config)
        layers = decoder_layers(model, self.config.num_hidden_layers)
        inside, total = _count(layers), _count(model)
        output = int(model.get_output_embeddings().weight.numel())
        return {"layer": _count(layers[-1]), "layers": inside, "output": output, "rest": total - inside}

    @cached_property
    def _head(self) -> DraftHead:
        shape, config = attention_shape(self.config), self.config
        sizes = HeadConfig(
            hidden_size=config.hidden_size,
            target_hidden_size=config.hidden_size,
            intermediate_size=feed_forward_size(config),
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            vocab_size=config.vocab_size,
            draft_vocab_size=self.options.draft_vocab_size,
            feature_layers=default_feature_layers(config.num_hidden_layers),
        )
        known = DraftVocabulary.first(sizes.draft_vocab_size, sizes.vocab_size)
        with torch.device("meta"):
            return DraftHead(sizes, known)

    @property
    def target_parameters(self) -> int:
        return self._sizes["layers"] + self._sizes["rest"]

    @property
    def head_parameters(self) -> int:
        return _count(self._head)

    @property
    def target_flops(self) -> float:
        """A token, forward: with its whole output layer, which the normaliser of its law needs."""
        shape = attention_shape(self.config)
        attention = 4 * shape.num_heads * shape.head_dim * self.options.length / 2 * self.config.num_hidden_layers
        return float(2 * (self._sizes["layers"] + self._sizes["output"]) + attention)

    @property
    def head_flops(self) -> float:
        """A token, forward and backward, all steps."""
        head, shape, steps = self._head, attention_shape(self.config), self.options.num_steps
        fusion, output = _count(head.fc), _count(head.lm_head)
        step = _count(head) - fusion + 2 * shape.num_heads * shape.head_dim * self.options.length / 2
        again = 4 / 3 if self.options.gradient_checkpointing else 1
        return 6 * fusion + again * 6 * steps * step + 2 * output

    @property
    def hours(self) -> float:
        """Of all GPUs together at work."""
        target = 2 * self._sizes["output"] if self.options.stored_features else self.target_flops
        rate = self.options.num_gpus * self.options.peak_tflops * 1e12 * self.options.utilisation
        return self.options.tokens * (target + self.head_flops) / rate / 3600

    @property
    def feature_bytes(self) -> float:
        """On disk, of all tokens once: three features and the final state in bfloat16."""
        return float(self.options.tokens * 4 * self.config.hidden_size * BYTES)

    @property
    def memory(self) -> dict[str, float]:
        """Bytes on one GPU, by what they are of."""
        return dict(self._memory())

    def _memory(self) -> Iterator[tuple[str, float]]:
        options, parts = self.options, self.options.num_gpus
        hidden, width = self.config.hidden_size, feed_forward_size(self.config)
        divided = options.shard_target and not options.stored_features
        if not options.stored_features:
            yield "target's layers", BYTES * self._sizes["layers"] / (parts if divided else 1)
        if divided:
            yield "layers gathered", BYTES * IN_FLIGHT * self._sizes["layer"]
        copied = BYTES * (_count(self._head.lm_head) + (3 * hidden * width if divided else 0))
        yield "target's embedding, output layer, parts for the head", BYTES * self._sizes["rest"] + copied
        yield "head, gradients, AdamW", self.head_parameters * self._bytes_a_weight
        yield "activations of the head", options.tokens_per_batch * self.activation_bytes
        reading = 4 * hidden + (0 if options.stored_features else 6 * hidden + 3 * width)
        logits = 3 * 4 * SUMMARY_ROWS * self.config.vocab_size
        yield "features, a layer's activations, logits", options.tokens_per_batch * BYTES * reading + logits

    @property
    def _bytes_a_weight(self) -> float:
        whole = sum(HEAD_BYTES.values())
        if self.options.num_gpus == 1:
            return whole
        return (
            whole / self.options.num_gpus + HEAD_BYTES["bfloat16 copies"]
            if self.options.shard_head
            else whole + BUCKETS
        )

    @property
    def activation_bytes(self) -> float:
        """Of a token, all steps, that the backward pass needs."""
        shape, hidden = attention_shape(self.config), self.config.hidden_size
        queries, keys = (count * shape.head_dim for count in (shape.num_heads, shape.num_key_value_heads))
        step = 38 * hidden + 8 * feed_forward_size(self.config) + 5 * queries + 4 * keys
        if self.options.gradient_checkpointing:
            return float(step + self.options.num_steps * (12.5 * hidden + 4 * keys))
        return float(self.options.num_steps * step)


def estimate(options: EstimateOptions) -> Estimate:
    """Reads a configuration. Raises ValueError and FileNotFoundError as loading a model does."""
    if options.target in KNOWN:
        return Estimate(AutoConfig.for_model("llama", **LLAMA | KNOWN[str(options.target)]), options)
    config = read_config(str(options.target or "the packaged target"), find_model(options.target))
    return Estimate(config.get_text_config(decoder=True), options)


def _count(module: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(weight.numel() for weight in module.parameters())

"""What training must know of a target besides its features: sizes, embeddings, output layer, weights to start from.

Small enough to be stored beside features, so that a head can be trained where the target does not fit.

Letters: V vocabulary, Vd draft vocabulary, H hidden size, P positions.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eagle.engine.norms import mlp_norm, plain_weight
from eagle.engine.placement import whole_weight
from eagle.engine.shape import attention_shape, feed_forward_size
from eagle.engine.target import Target
from eagle.files import atomic_file, read_json, write_json
from eagle.options import build

FACTS, WEIGHTS = "target.json", "target.safetensors"
NORMALISER_ROWS = 128  # more rows gain nothing, fewer read the output matrix too often
DIGEST_ROWS = 256  # of every matrix: enough to tell targets apart, and quick for those of gigabytes


@dataclass(frozen=True)
class TargetSizes:
    name: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    feature_layers: tuple[int, int, int]
    context_limit: int
    end_token_ids: tuple[int, ...]
    logit_softcap: float | None


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """Final states -> logits over the tokens whose rows it holds."""

    weight: Tensor  # (V, H), or (Vd, H) when restricted
    bias: Tensor | None = None
    softcap: float | None = None

    def restricted(self, ids: Tensor) -> "OutputLayer":
        """The same layer for some tokens only, ids (Vd,)."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def __call__(self, states: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(states, self.weight, self.bias)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def summary(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """states (P, H) -> log of the sum of exponentials over all tokens (P,), and the best token (P,)."""
        parts = [self._summary(part) for part in torch.split(states, NORMALISER_ROWS)]
        return torch.cat([lse for lse, _ in parts]), torch.cat([best for _, best in parts])

    def _summary(self, states: Tensor) -> tuple[Tensor, Tensor]:
        logits = self(states)
        top, best = logits.max(-1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top = top.to(logits.dtype)
        return logits.sub_(top[:, None]).exp_().sum(-1).log() + top, best


@dataclass(frozen=True, eq=False)
class TargetFacts:
    """Sizes and tensors. `tensors`: embedding, output, and where the architecture has them output_bias, norm,
    mlp_norm, gate_proj, up_proj, down_proj (of the last layer). Norms are what they multiply by, see
    `eagle.engine.norms`."""

    sizes: TargetSizes
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, target: Target) -> "TargetFacts":
        """Raises ValueError when the model does more to its logits than `OutputLayer` knows."""
        facts = cls(_sizes(target), _tensors(target))
        check_output_layer(facts, target)
        return facts

    @classmethod
    def load(cls, directory: Path) -> "TargetFacts":
        """Raises ValueError that names a file that is damaged."""
        remedy = "write the features to another directory, or restore the file"
        try:
            sizes = build(TargetSizes, read_json(directory / FACTS, remedy))
            return cls(sizes, load_file(directory / WEIGHTS))
        except (ValueError, SafetensorError, OSError) as error:
            told = str(error)
            raise ValueError(told if remedy in told else f"{directory}: {told}; {remedy}") from error

    def save(self, directory: Path) -> None:
        with atomic_file(directory / WEIGHTS) as temporary:
            # tied matrices share memory, which the format refuses: each is written out
            save_file({name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()}, temporary)
        write_json(directory / FACTS, asdict(self.sizes))

    def to(self, device: torch.device) -> "TargetFacts":
        return TargetFacts(self.sizes, {name: tensor.to(device) for name, tensor in self.tensors.items()})

    @property
    def identity(self) -> dict[str, Any]:
        """Sizes and a digest of the weights: what makes it this target, wherever it was loaded from."""
        sizes = {name: value for name, value in asdict(self.sizes).items() if name != "name"}
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            rows = tensor[:: max(1, len(tensor) // DIGEST_ROWS)].detach().cpu().contiguous()
            digest.update(name.encode() + rows.flatten().view(torch.uint8).numpy().tobytes())
        return {**sizes, "weights_sha256": digest.hexdigest()}

    @property
    def output_layer(self) -> OutputLayer:
        return OutputLayer(self.tensors["output"], self.tensors.get("output_bias"), self.sizes.logit_softcap)


def check_output_layer(facts: TargetFacts, target: Target) -> None:
    """Compares a few logits with the model's own."""
    ids = torch.arange(min(8, target.vocab_size), device=target.device)[None]
    with torch.no_grad():
        ours, theirs = facts.output_layer(target.read_states(ids)[1]).float(), target.read(ids).logits.float()
    if not torch.allclose(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max())):
        difference = float((ours - theirs).abs().max())
        raise ValueError(
            f"{target.name} changes its logits after the output layer (by up to {difference:.3g}): "
            "teach eagle.training.target_snapshot.OutputLayer this architecture before training a head for it"
        )


def _sizes(target: Target) -> TargetSizes:
    config = target.config
    shape = attention_shape(config)
    low, mid, high = target.feature_layers
    return TargetSizes(
        name=target.name,
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        num_layers=len(target.layers),
        intermediate_size=feed_forward_size(config),
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
        feature_layers=(low, mid, high),
        context_limit=target.context_limit,
        end_token_ids=tuple(sorted(target.end_token_ids)),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
    )


def _tensors(target: Target) -> dict[str, Tensor]:
    output, last = target.model.get_output_embeddings(), target.layers[-1]
    mlp = getattr(last, "mlp", None)
    modules = {
        "embedding": target.model.get_input_embeddings(),
        "output": output,
        **{name: getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")},
    }
    tensors = {name: whole_weight(module) for name, module in modules.items() if hasattr(module, "weight")}
    norms = {"norm": getattr(target.model.get_decoder(), "norm", None), "mlp_norm": mlp_norm(target)}
    tensors |= {name: weight for name, norm in norms.items() if (weight := plain_weight(norm)) is not None}
    if getattr(output, "bias", None) is not None:
        tensors["output_bias"] = whole_weight(output, "bias")
    return tensors

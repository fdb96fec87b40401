"""Where a new head's weights come from: as much as fits from the target, the rest at random."""

import torch
from torch import Tensor

from eagle.draft import DraftHead, HeadConfig
from eagle.target import Target
from eagle.training.config import TrainConfig
from eagle.vocab import DraftVocabulary


def new_head(config: TrainConfig, target: Target, vocabulary: DraftVocabulary) -> DraftHead:
    """A head for this target with float32 weights. Raises ValueError where a chosen source does not fit."""
    head = DraftHead(head_shape(config, target, vocabulary), vocabulary)
    head.init_weights(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        if config.init_lm_head == "target":
            rows = target.model.get_output_embeddings().weight[vocabulary.target_ids.to(target.device)]
            _copy(head.lm_head.weight, rows, "init_lm_head")
        if config.init_norms == "target":
            _copy_norms(head, target)
        if config.init_mlp == "target":
            for name in ("gate_proj", "up_proj", "down_proj"):
                source = getattr(target.layers[-1].mlp, name, None)
                _copy(getattr(head.midlayer.mlp, name).weight, _weight(source, "init_mlp"), "init_mlp")
        if config.init_fc != "random":
            shares = {"high": (0.0, 0.0, 1.0), "average": (1 / 3, 1 / 3, 1 / 3)}[config.init_fc]
            blocks = [share * torch.eye(head.config.hidden_size, target.hidden_size) for share in shares]
            head.fc.weight.copy_(torch.cat(blocks, dim=1))
    return head


def head_shape(config: TrainConfig, target: Target, vocabulary: DraftVocabulary) -> HeadConfig:
    """Sizes from the configuration, and from the target where it leaves them open."""
    source = target.config
    heads = config.num_attention_heads or source.num_attention_heads
    default_size = getattr(source, "head_dim", None) or source.hidden_size // source.num_attention_heads
    return HeadConfig(
        hidden_size=target.hidden_size,
        target_hidden_size=target.hidden_size,
        intermediate_size=config.intermediate_size or source.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads or getattr(source, "num_key_value_heads", None) or heads,
        head_dim=config.head_dim or default_size,
        vocab_size=target.vocab_size,
        draft_vocab_size=vocabulary.d2t.numel(),
        feature_layers=target.feature_layers,
        rms_norm_eps=getattr(source, "rms_norm_eps", 1e-6),
    )


def _copy_norms(head: DraftHead, target: Target) -> None:
    decoder = target.model.get_decoder()
    _copy(head.norm.weight, _weight(getattr(decoder, "norm", None), "init_norms"), "init_norms")
    source = getattr(target.layers[-1], "post_attention_layernorm", None)
    _copy(head.midlayer.post_attention_layernorm.weight, _weight(source, "init_norms"), "init_norms")


def _weight(module: torch.nn.Module | None, field: str) -> Tensor:
    if module is None or not hasattr(module, "weight"):
        raise ValueError(f"{field} is 'target', but this architecture has no such module: choose another value")
    return module.weight


def _copy(parameter: Tensor, source: Tensor, field: str) -> None:
    if parameter.shape != source.shape:
        raise ValueError(
            f"{field} is 'target', but the sizes differ: {tuple(source.shape)} there, {tuple(parameter.shape)} here; "
            "leave the head's sizes to the target, or choose another value"
        )
    parameter.copy_(source)

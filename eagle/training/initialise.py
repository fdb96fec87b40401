"""Where a new head's weights come from: as much as fits from the target, the rest at random."""

from dataclasses import replace

import torch
from torch import Tensor

from eagle.drafters.head import DraftHead, HeadConfig
from eagle.training.target_snapshot import TargetFacts
from eagle.training.train_config import TrainConfig
from eagle.vocab import DraftVocabulary

SOFT_NORM = 0.3  # with the target's output rows, logits of a fresh head then spread by about 1 and not by 5 or more
VOCABULARY_TENSORS = ("lm_head.weight", "d2t", "t2d")
FUSION = {"high": (0.0, 0.0, 1.0), "average": (1 / 3, 1 / 3, 1 / 3)}  # shares of the low, mid and high feature


@torch.no_grad()
def new_head(config: TrainConfig, facts: TargetFacts, vocabulary: DraftVocabulary) -> DraftHead:
    """A head for this target with float32 weights. Raises ValueError where a chosen source does not fit."""
    head = DraftHead(head_shape(config, facts, vocabulary), vocabulary)
    head.init_weights(torch.Generator().manual_seed(config.seed))
    if config.init_lm_head == "target":
        _copy(head.lm_head.weight, facts, "output", "init_lm_head", vocabulary.target_ids)
    if config.init_norms == "soft":
        head.norm.weight.fill_(SOFT_NORM)
    if config.init_norms == "target":
        _copy(head.norm.weight, facts, "norm", "init_norms")
        _copy(head.midlayer.post_attention_layernorm.weight, facts, "mlp_norm", "init_norms")
    if config.init_mlp == "target":
        for name in ("gate_proj", "up_proj", "down_proj"):
            _copy(getattr(head.midlayer.mlp, name).weight, facts, name, "init_mlp")
    if config.init_fc != "random":
        eye = torch.eye(head.config.hidden_size, facts.sizes.hidden_size)
        head.fc.weight.copy_(torch.cat([share * eye for share in FUSION[config.init_fc]], dim=1))
    return head


def head_shape(config: TrainConfig, facts: TargetFacts, vocabulary: DraftVocabulary) -> HeadConfig:
    """Sizes from the configuration, and from the target where it leaves them open."""
    sizes = facts.sizes
    return HeadConfig(
        hidden_size=sizes.hidden_size,
        target_hidden_size=sizes.hidden_size,
        intermediate_size=config.intermediate_size or sizes.intermediate_size,
        num_attention_heads=config.num_attention_heads or sizes.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or sizes.num_key_value_heads,
        head_dim=config.head_dim or sizes.head_dim,
        vocab_size=sizes.vocab_size,
        draft_vocab_size=vocabulary.d2t.numel(),
        feature_layers=sizes.feature_layers,
        rms_norm_eps=sizes.rms_norm_eps,
    )


@torch.no_grad()
def with_vocabulary(head: DraftHead, facts: TargetFacts, vocabulary: DraftVocabulary) -> DraftHead:
    """The head with another draft vocabulary: tokens it knew keep their output rows, new ones take the target's."""
    resized = DraftHead(replace(head.config, draft_vocab_size=vocabulary.d2t.numel()), vocabulary)
    kept = {name: tensor for name, tensor in head.state_dict().items() if name not in VOCABULARY_TENSORS}
    resized.load_state_dict({**resized.state_dict(), **kept})
    _copy(resized.lm_head.weight, facts, "output", "vocabulary", vocabulary.target_ids)
    before = head.vocabulary.draft_ids[vocabulary.target_ids]  # (Vd,), -1: new
    resized.lm_head.weight[before >= 0] = head.lm_head.weight[before[before >= 0]]
    return resized


def _copy(parameter: Tensor, facts: TargetFacts, name: str, field: str, rows: Tensor | None = None) -> None:
    source = facts.tensors.get(name)
    if source is None:
        raise ValueError(f"{field} is 'target', but this architecture has no {name}: choose another value")
    source = source if rows is None else source[rows.to(source.device)]
    if parameter.shape != source.shape:
        raise ValueError(
            f"{field} is 'target', but the sizes differ: {tuple(source.shape)} there, {tuple(parameter.shape)} here; "
            "leave the head's sizes to the target, or choose another value"
        )
    parameter.copy_(source)

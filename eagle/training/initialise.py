"""Where a new head's weights come from: as much as fits from the target, the rest at random."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from eagle.checkpoints.flat import open_head
from eagle.data.batches import Example
from eagle.data.token_counts import build_vocabulary, load_vocabulary
from eagle.drafters.head import DraftHead, HeadConfig
from eagle.engine.target import Target
from eagle.training.target_snapshot import TargetFacts, TargetSizes
from eagle.training.train_config import Initialisation
from eagle.vocab import DraftVocabulary

NO_MLP_NORM = "{}: no RMS norm stands before this target's MLP, the head's begins with ones (init_norms is 'target')"
VOCABULARY_TENSORS = ("lm_head.weight", "d2t", "t2d")
FUSION = {"high": (0.0, 0.0, 1.0), "average": (1 / 3, 1 / 3, 1 / 3)}  # shares of the low, mid and high feature


def make_head(
    start: Initialisation, facts: TargetFacts, target: Target | None, examples: Sequence[Example]
) -> DraftHead:
    """A new head, or the one to go on from, with float32 master weights."""
    if start.initial_head is None:
        return new_head(start, facts, draft_vocabulary(start, facts, examples))
    head = open_head(start.initial_head, target, torch.float32).train()
    _check_initial(head.config, facts.sizes)
    if start.vocabulary is None:
        return head
    return with_vocabulary(head, facts, draft_vocabulary(start, facts, examples))


def _check_initial(shape: HeadConfig, sizes: TargetSizes) -> None:
    """Raises ValueError where the head to go on from belongs to another target or reads other features."""
    found = shape.target_hidden_size, shape.vocab_size
    wanted = sizes.hidden_size, sizes.vocab_size
    if found != wanted:
        raise ValueError(f"initial_head is for a target with (hidden, vocabulary) sizes {found}, this one has {wanted}")
    if shape.feature_layers != sizes.feature_layers:
        raise ValueError(
            f"initial_head reads the inputs of layers {shape.feature_layers}, the features are those of "
            f"{sizes.feature_layers}: write them to another directory, with the same initial_head"
        )


def draft_vocabulary(start: Initialisation, facts: TargetFacts, examples: Sequence[Example]) -> DraftVocabulary:
    """The stored vocabulary, or the most frequent tokens of the training conversations' answers."""
    sizes = facts.sizes
    if start.vocabulary is not None:
        return load_vocabulary(Path(start.vocabulary), sizes.name, sizes.vocab_size)[0]
    answers = torch.cat([example.ids[example.loss_mask] for example in examples]).long()
    counts = torch.bincount(answers, minlength=sizes.vocab_size)  # (V,)
    return build_vocabulary(counts, start.draft_vocab_size, always=sizes.end_token_ids)


@torch.no_grad()
def new_head(start: Initialisation, facts: TargetFacts, vocabulary: DraftVocabulary) -> DraftHead:
    """A head for this target with float32 weights. Raises ValueError where a chosen source does not fit."""
    head = DraftHead(head_shape(start, facts, vocabulary), vocabulary)
    head.init_weights(torch.Generator().manual_seed(start.seed))
    if start.init_lm_head == "target":
        _copy(head.lm_head.weight, facts, "output", "init_lm_head", vocabulary.target_ids)
    if start.init_norms == "soft":
        head.norm.weight.fill_(soft_norm(head.lm_head.weight))
    if start.init_norms == "target":
        _copy(head.norm.weight, facts, "norm", "init_norms")
        _copy_mlp_norm(head, facts)
    if start.init_mlp == "target":
        for name in ("gate_proj", "up_proj", "down_proj"):
            _copy(getattr(head.midlayer.mlp, name).weight, facts, name, "init_mlp")
    if start.init_fc != "random":
        eye = torch.eye(head.config.hidden_size, facts.sizes.hidden_size)
        head.fc.weight.copy_(torch.cat([share * eye for share in FUSION[start.init_fc]], dim=1))
    return head


def head_shape(start: Initialisation, facts: TargetFacts, vocabulary: DraftVocabulary) -> HeadConfig:
    """Sizes as asked for, and from the target where it leaves them open."""
    sizes = facts.sizes
    return HeadConfig(
        hidden_size=sizes.hidden_size,
        target_hidden_size=sizes.hidden_size,
        intermediate_size=start.intermediate_size or sizes.intermediate_size,
        num_attention_heads=start.num_attention_heads or sizes.num_attention_heads,
        num_key_value_heads=start.num_key_value_heads or sizes.num_key_value_heads,
        head_dim=start.head_dim or sizes.head_dim,
        vocab_size=sizes.vocab_size,
        draft_vocab_size=vocabulary.d2t.numel(),
        feature_layers=sizes.feature_layers,
        rms_norm_eps=sizes.rms_norm_eps,
    )


def soft_norm(output_rows: Tensor) -> float:
    """The weight of the last norm with which a fresh head's logits spread by about 1: rows (Vd, H).

    The norm hands on numbers of size 1 times its weight, so a row of length r makes logits that spread by r times that.
    How long rows are is a matter of the family: 2.95 on average in SmolLM2-135M, 0.51 in Qwen2.5-Coder-0.5B, and a
    weight that is small for one leaves the other with a flat law that a whole training does not sharpen.
    """
    return float(1 / output_rows.norm(dim=-1).mean())


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


def _copy_mlp_norm(head: DraftHead, facts: TargetFacts) -> None:
    """Some families norm what the MLP makes and not what it reads (OLMo-2): ones then, and a warning."""
    if "mlp_norm" in facts.tensors:
        _copy(head.midlayer.post_attention_layernorm.weight, facts, "mlp_norm", "init_norms")
    else:
        warnings.warn(NO_MLP_NORM.format(facts.sizes.name), stacklevel=2)


def _copy(parameter: Tensor, facts: TargetFacts, name: str, field: str, rows: Tensor | None = None) -> None:
    source = facts.tensors.get(name)
    if source is None:
        raise ValueError(
            f"{field} is 'target', but this architecture has no {name} of the head's kind: choose another value"
        )
    source = source if rows is None else source[rows.to(source.device)]
    if parameter.shape != source.shape:
        raise ValueError(
            f"{field} is 'target', but the sizes differ: {tuple(source.shape)} there, {tuple(parameter.shape)} here; "
            "leave the head's sizes to the target, or choose another value"
        )
    parameter.copy_(source)

"""Tiny random models. Targets have nine layers: with fewer, L // 2 and L - 3 may coincide and hide a mix-up."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from transformers import AutoConfig

from eagle.decode import Step
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.rope import forget_growth
from eagle.engine.target import Target
from eagle.trees import TreePolicy
from eagle.vocab import DraftVocabulary
from evaluation.selfcheck.tiny import random_head, random_model

VOCAB_SIZE, DRAFT_VOCAB_SIZE = 97, 50
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.2,  # large enough for laws that are neither flat nor one-hot
}
HEAD_SIZES = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def tiny_target(family: str = "llama", attention: str = "sdpa", seed: int = 0, **changes) -> Target:
    """A random target of one of transformers' families, in float32 on the CPU."""
    return Target(random_model(AutoConfig.for_model(family, **{**SIZES, **changes}), seed, attention))


def tiny_head(target: Target, seed: int = 0, draft_vocab_size: int = DRAFT_VOCAB_SIZE) -> DraftHead:
    """A random head for a tiny target; its draft vocabulary is spread over the target's."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(target.vocab_size, generator=generator)[:draft_vocab_size].sort().values
    vocabulary = DraftVocabulary.from_target_ids(ids, target.vocab_size)
    head = random_head(target, vocabulary, generator, **HEAD_SIZES)
    for parameter in head.parameters():
        parameter.data.mul_(5)  # laws that differ from node to node
    return head


def tiny_drafter(target: Target, policy: TreePolicy, seed: int = 0) -> EagleDrafter:
    return EagleDrafter(tiny_head(target, seed), target.embed, policy)


def random_ids(length: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> list[int]:
    return torch.randint(vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tokens_of(steps: Iterable[Step]) -> list[int]:
    """All that a decode emitted."""
    return [token for step in steps for token in step.tokens]


def generated(target: Target, ids: list[int], num_tokens: int) -> list[int]:
    """Transformers' own greedy text behind ids, whatever an earlier and longer one left in the model."""
    forget_growth(target.model)
    given, model = torch.tensor([ids]), cast(Any, target.model)
    output = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=num_tokens, do_sample=False, eos_token_id=None
    )
    return output[0, len(ids) :].tolist()

"""Heads of others against their formulas, written out: the flags of EAGLE-3.1, gpt-oss and speculators, own embeddings.

What the fields mean was read in vLLM's, SpecForge's and speculators' code; none of it is needed here.
"""

from dataclasses import replace

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.sampling import Sampling
from eagle.training.steps import unroll
from eagle.trees import EagleTree
from tests.tiny import random_ids, tiny_head

FLAGS = ("norm_output", "norm_before_residual", "norm_before_fc", "fc_norm")
NARROW = {"hidden_size": 24, "own_embedding": True}
VARIANTS = [
    {},
    *({flag: True} for flag in FLAGS),
    {"norm_output": True, "fc_norm": True},  # EAGLE-3.1
    {"norm_before_residual": True, "norm_before_fc": True},  # gpt-oss by speculators
    {"own_embedding": True},
    NARROW,  # the head of Llama-3.3-70B: 6144 wide beside 8192
    NARROW | dict.fromkeys(FLAGS, True),
]


def variant(target, **changes):
    """A random head with norms that are not ones."""
    ordinary = tiny_head(target)
    head = DraftHead(replace(ordinary.config, **changes), ordinary.vocabulary)
    generator = torch.Generator().manual_seed(1)
    for parameter in head.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - (0.5 if parameter.dim() > 1 else 0.0)
    return head.eval()


def rms(x, weight, eps):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotated(x, theta):
    """x (heads, T, d) at positions 0, 1, .."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] / theta ** (torch.arange(half) / half)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Formulas:
    """A head as plain functions of its tensors: no cache, no modules, one path."""

    def __init__(self, head, target):
        self.state, self.config = head.state_dict(), head.config
        self.embeddings = self.state.get("embed_tokens.weight", target.model.get_input_embeddings().weight)

    def norm(self, name, x):
        return rms(x, self.state[f"{name}.weight"], self.config.rms_norm_eps)

    def fused(self, features):
        if self.config.norm_before_fc:
            features = self.norm("input_norm", features)
        if self.config.fc_norm:
            parts = features.chunk(3, -1)
            features = torch.cat([self.norm(f"fc_norm.{i}", part) for i, part in enumerate(parts)], -1)
        return features @ self.state["fc.weight"].T

    def layer(self, hidden, tokens):
        normed = self.norm("midlayer.hidden_norm", hidden)
        x = torch.cat([self.norm("midlayer.input_layernorm", self.embeddings[tokens]), normed], -1)
        stream = (normed if self.config.norm_before_residual else hidden) + self.attention(x)
        y = self.norm("midlayer.post_attention_layernorm", stream)
        gate, up, down = (self.state[f"midlayer.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        return stream + (torch.nn.functional.silu(y @ gate.T) * (y @ up.T)) @ down.T

    def attention(self, x):
        q, k, v = (self.heads(x, name) for name in "qkv")
        groups = self.config.num_attention_heads // self.config.num_key_value_heads
        q, k = rotated(q, self.config.rope_theta), rotated(k, self.config.rope_theta).repeat_interleave(groups, 0)
        scores = q @ k.transpose(1, 2) / self.config.head_dim**0.5
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v.repeat_interleave(groups, 0)).transpose(0, 1).flatten(1)
        return mixed @ self.state["midlayer.self_attn.o_proj.weight"].T

    def heads(self, x, name):
        projected = x @ self.state[f"midlayer.self_attn.{name}_proj.weight"].T
        return projected.unflatten(-1, (-1, self.config.head_dim)).transpose(0, 1)

    def logits(self, features, tokens, guesses=()):
        """After tokens (T,) and guesses; features (T, 3Ht) stand beside the tokens, each one position older."""
        hidden = self.fused(features)
        for guess in (*guesses, None):
            states = self.layer(hidden, torch.tensor(tokens))
            normed = self.norm("norm", states)
            if guess is not None:
                fed_on = normed if self.config.norm_output else states
                hidden, tokens = torch.cat([hidden, fed_on[-1:]]), [*tokens, guess]
        return normed[-1] @ self.state["lm_head.weight"].T


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@torch.inference_mode()
def test_a_head_drafts_by_its_formulas(target, changes):
    """These fields were passed over in silence: heads loaded, and drafted something else than they were trained for."""
    head, ids = variant(target, **changes), random_ids(12)
    features = target.prefill(torch.tensor(ids), target.new_cache()).features  # (12, 3H)
    drafter = EagleDrafter(head, target.embed, EagleTree())
    drafter.observe(torch.tensor([*ids, 5]), features)
    with drafter.open_round() as proposer:
        found = [proposer.root_logits]
        found += [*proposer.expand(torch.tensor([7, 9]), torch.tensor([0, 0]))]
        found += [*proposer.expand(torch.tensor([3]), torch.tensor([2]))]
    wanted = [Formulas(head, target).logits(features, [*ids[1:], 5], path) for path in ((), (7,), (9,), (9, 3))]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS[-2:] + VARIANTS[1:2], ids=str)
def test_training_computes_what_drafting_does(target, changes):
    head, ids = variant(target, **changes), random_ids(10)
    with torch.no_grad():
        features = target.read_states(torch.tensor([ids]))[0]
        embeddings = head.embedding(target.embed)(torch.tensor([ids]))
        outputs = unroll(head, features, embeddings, num_steps=2)
        found = [head.lm_head(head.normed(output))[0, 6] for output in outputs]
        wanted = [Formulas(head, target).logits(features[0, :7], ids[1:8], guesses) for guesses in ((), ids[8:9])]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS[1:], ids=str)
def test_a_head_of_any_kind_decodes_losslessly(target, changes):
    options = DecodeOptions(Sampling(0.0), max_new_tokens=16)
    session = Session(target, EagleDrafter(variant(target, **changes), target.embed, EagleTree(8, 3, 3)))
    plain = [step.tokens[0] for step in autoregressive(target, random_ids(9), options)]
    assert [token for step in session.decode(random_ids(9), options) for token in step.tokens] == plain


def test_a_narrow_head_must_bring_its_embeddings(target):
    with pytest.raises(ValueError, match=r"hidden_size 24 cannot read .* hidden size 32: .* shape \(97, 24\)"):
        replace(tiny_head(target).config, hidden_size=24)


def test_own_embeddings_are_not_trained(target):
    head = variant(target, **NARROW)
    assert [name for name, one in head.named_parameters() if not one.requires_grad] == ["embed_tokens.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "32"}, "hidden_size is '32', it must be a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is True, it must be a whole number"),
        ({"intermediate_size": -1}, "intermediate_size is -1, it must be at least 1"),
        ({"vocab_size": 10**30}, "it must be at most"),
        ({"num_key_value_heads": 0}, "it must be at least 1"),
        ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim is 7, rotation needs an even number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, it must be a number"),
        ({"rms_norm_eps": 0.0}, "larger than 0"),
        ({"rope_theta": float("inf")}, "it must be a finite number"),
        ({"norm_output": 1}, "norm_output is 1, it must be true or false"),
        ({"draft_vocab_size": 98}, "draft_vocab_size is 98, it must lie in 1..97"),
        ({"feature_layers": (2, 4)}, "three different layers"),
        ({"feature_layers": (-1, 4, 6)}, "from 0 up"),
        ({"feature_layers": (2, 2, 6)}, "three different layers"),
        ({"feature_layers": (6, 4, 2)}, "rising order"),
        ({"feature_layers": (2.0, 4, 6)}, "whole numbers"),
        ({"feature_layers": (True, 4, 6)}, "whole numbers"),
        ({"feature_layers": "246"}, "whole numbers"),
        ({"feature_layers": None}, "whole numbers"),
    ],
)
def test_numbers_of_a_head_are_checked(target, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_head(target).config, **changes)

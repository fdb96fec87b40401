"""Where a new head's weights come from: the target's, by what they do and not by what they are called."""

import dataclasses

import pytest
import torch

from eagle.checkpoints.flat import open_head, save_head
from eagle.engine.norms import mlp_norm, plain_weight
from eagle.training.initialise import make_head
from eagle.training.run import train
from eagle.training.target_snapshot import TargetFacts
from tests.drafters.test_published_heads import NARROW, variant
from tests.tiny import tiny_head, tiny_target
from tests.training import runs

FAMILIES = {  # the last layer's norm that the MLP reads, and what is added to the stored weight
    "llama": ("post_attention_layernorm", 0, {}),
    "qwen3": ("post_attention_layernorm", 0, {"head_dim": 8}),
    "mistral": ("post_attention_layernorm", 0, {}),
    "mixtral": ("post_attention_layernorm", 0, {"num_local_experts": 2}),
    "glm4": ("post_attention_layernorm", 0, {"head_dim": 8}),
    "gemma": ("post_attention_layernorm", 1, {"head_dim": 8}),
    "gemma2": ("pre_feedforward_layernorm", 1, {"head_dim": 8}),
    "gemma3_text": ("pre_feedforward_layernorm", 1, {"head_dim": 8}),
    "olmo2": (None, 0, {}),
}


def family(name, seed=0):
    """A random target whose norms are neither ones nor zeros."""
    attention = "eager" if name == "gemma2" else "sdpa"
    target = tiny_target(name, attention, seed, **FAMILIES[name][2])
    generator = torch.Generator().manual_seed(seed)
    for module in target.model.modules():
        if "norm" in type(module).__name__.lower():
            module.weight.data = 0.5 * torch.rand(module.weight.shape, generator=generator) + 0.1
    return target


def fresh_head(target, tmp_path, **changes):
    config = runs.config(tmp_path, **{"init_norms": "target", **changes})
    facts = TargetFacts.of(target)
    return make_head(config.initialisation, facts, target, runs.examples())


@pytest.mark.parametrize("name", FAMILIES)
def test_norms_are_copied_by_what_they_do(name):
    """Gemma multiplies by 1 + w: a plain copy of its w, zeros at first, gave a head whose logits are all 0. And the
    norm that its MLP reads is not the one of Llama's name."""
    place, added, _ = FAMILIES[name]
    target = family(name)
    facts = TargetFacts.of(target)
    torch.testing.assert_close(facts.tensors["norm"], target.model.get_decoder().norm.weight.detach() + added)
    if place is None:
        assert "mlp_norm" not in facts.tensors
    else:
        wanted = getattr(target.layers[-1], place).weight.detach() + added
        assert torch.equal(facts.tensors["mlp_norm"], wanted)


@pytest.mark.parametrize("name", ["gemma", "gemma3_text", "llama"])
def test_the_final_norm_does_what_the_targets_does(name, tmp_path):
    target = family(name)
    head, x = fresh_head(target, tmp_path), 3 * torch.randn(5, 32)
    torch.testing.assert_close(head.norm(x), target.model.get_decoder().norm(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [0.2, 1, 5])
def test_soft_norms_fit_the_length_of_the_targets_output_rows(length, tmp_path):
    """One number for all families, 0.3, was right for rows of length 3 and left those of length 0.5 with a flat law."""
    target = tiny_target()
    target.model.get_output_embeddings().weight.data *= length
    head = fresh_head(target, tmp_path, init_norms="soft")
    states = 3 * torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    # rows differ in length, so a little off 1; with the constant the three spreads were 25 times apart
    assert head.logits(states).std().item() == pytest.approx(1, rel=0.1)


def test_a_gemma_with_its_first_weights_gives_logits(tmp_path):
    head = fresh_head(tiny_target("gemma", head_dim=8), tmp_path)
    assert head.logits(torch.randn(3, 32)).abs().max() > 0.1


def test_a_family_without_a_norm_before_its_mlp_begins_with_ones(tmp_path):
    """OLMo-2 norms what attention and MLP make; its norm of attention's output was taken for the MLP's."""
    with pytest.warns(UserWarning, match="no RMS norm stands before this target's MLP, the head's begins with ones"):
        head = fresh_head(family("olmo2"), tmp_path)
    assert torch.equal(head.midlayer.post_attention_layernorm.weight, torch.ones(32))


@pytest.mark.parametrize("norm", [torch.nn.LayerNorm(8), torch.nn.Identity(), None])
def test_other_norms_are_not_taken_for_rms_norms(norm):
    assert plain_weight(norm) is None


@pytest.mark.parametrize("added", [0, 1])
def test_rounded_weights_are_told_apart(added):
    """In bfloat16, over weights as large as Gemma's."""

    class Norm(torch.nn.RMSNorm):
        def forward(self, x):
            return torch.nn.functional.rms_norm(x.float(), (64,), self.weight.float() + added, 1e-6).to(x.dtype)

    norm = Norm(64, dtype=torch.bfloat16)
    norm.weight.data = (torch.rand(64) * 20 - 1).bfloat16()
    weight = norm.weight.detach()
    assert torch.equal(plain_weight(norm), weight + added)


def test_looking_for_the_norm_leaves_no_hook(target):
    def hooks():  # transformers leaves some of its own when it is asked for hidden states
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in target.model.modules()]

    before = hooks()
    mlp_norm(target)
    assert hooks() == before


def test_a_target_whose_norm_is_no_rms_norm_is_refused(tmp_path):
    target = tiny_target("cohere", logit_scale=1.0)
    with pytest.raises(ValueError, match="init_norms is 'target', but this architecture has no norm of the head's"):
        fresh_head(target, tmp_path)


def other_layers(target, directory):
    head = tiny_head(target)
    head.config = dataclasses.replace(head.config, feature_layers=(1, 3, 5))
    return str(save_head(head, directory))


def test_the_head_to_go_on_from_decides_the_features(tmp_path):
    """It was trained on with the features of the layers that every new head would get."""
    target, directory = tiny_target(), other_layers(tiny_target(), tmp_path / "head")
    config = runs.config(tmp_path / "run", initial_head=directory)
    with pytest.raises(ValueError, match=r"initial_head reads the inputs of layers \(1, 3, 5\), .* \(2, 4, 6\)"):
        make_head(config.initialisation, TargetFacts.of(target), None, runs.examples())
    target.read_layers((1, 3, 5))
    facts = TargetFacts.of(target)
    assert facts.sizes.feature_layers == (1, 3, 5)
    make_head(config.initialisation, facts, target, runs.examples())


def test_own_embeddings_are_read_in_training_and_stay(tmp_path):
    """A narrow head goes on: beside the target's embeddings, of another width, it could not even begin."""
    on = runs.setting()
    before = variant(on.target, **NARROW, norm_output=True, fc_norm=True)
    save_head(before, tmp_path / "head")
    config = runs.config(tmp_path / "run", initial_head=str(tmp_path / "head"), num_epochs=1)
    runs.trainer(config, on).run()
    after = open_head(tmp_path / "run" / "last", on.target, torch.float32)
    assert after.config == before.config
    rounded = before.embed_tokens.weight.bfloat16().float()
    assert torch.equal(after.embed_tokens.weight, rounded)
    states = (head.state_dict()["fc_norm.0.weight"] for head in (after, before))
    assert not torch.equal(*(state.bfloat16() for state in states))


def test_a_run_takes_the_features_of_its_initial_head(tmp_path):
    target = runs.save_target(tmp_path / "target")
    runs.save_rows(tmp_path / "rows.jsonl", 12)
    config = runs.config(
        tmp_path / "run",
        target=str(tmp_path / "target"),
        data=str(tmp_path / "rows.jsonl"),
        initial_head=other_layers(target, tmp_path / "head"),
        num_held_out=2,
        max_steps=1,
    )
    train(config)
    assert open_head(tmp_path / "run" / "last", target).config.feature_layers == target.feature_layers == (1, 3, 5)

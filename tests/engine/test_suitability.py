"""Which families may score trees: tried model by model, and refused with the reason rather than silently wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine import suitability
from eagle.trees import EagleTree
from tests.engine.families import REFUSED, RIGHT, UNREADABLE, family_target
from tests.tiny import generated, random_ids, tiny_drafter, tiny_target, tokens_of

NUM_TOKENS = 12
GREEDY = DecodeOptions(max_new_tokens=NUM_TOKENS)


def known(families):
    """Those that the installed transformers has: the oldest supported one has not all."""
    return [family for family in families if family in CONFIG_MAPPING_NAMES]


@pytest.mark.parametrize("family", known(RIGHT))
def test_trees_equal_paths_and_greedy_text_equals_generate(family):
    target = family_target(family, RIGHT[family])
    assert target.suitability == suitability.Suitability()
    ids = random_ids(20)
    drafted = tokens_of(Session(target, tiny_drafter(target, EagleTree(num_nodes=8, depth=3))).decode(ids, GREEDY))
    assert drafted == tokens_of(autoregressive(target, ids, GREEDY)) == generated(target, ids, NUM_TOKENS)


@pytest.mark.parametrize("family", known(REFUSED))
def test_what_cannot_score_trees_says_why_and_is_decoded_plainly(family):
    """mpt, gpt_neo, rwkv and recurrent_gemma changed the text silently; the others ended in obscure errors."""
    reason, changes = REFUSED[family]
    target = family_target(family, changes)
    with pytest.raises(ValueError, match=rf"cannot score draft trees: .*{reason}.*--plain"):
        Session(target, tiny_drafter(tiny_target(), EagleTree()))
    ids = random_ids(20)
    session = Session(target)
    assert (
        tokens_of(session.decode(ids, GREEDY))
        == tokens_of(autoregressive(target, ids, GREEDY))
        == generated(target, ids, NUM_TOKENS)
    )
    assert tokens_of(session.decode([*ids, 5], GREEDY)) == generated(
        target, [*ids, 5], NUM_TOKENS
    )  # from its start again


@pytest.mark.parametrize("family", known(UNREADABLE))
def test_what_cannot_be_decoded_at_all_says_why(family):
    reason, changes = UNREADABLE[family]
    with pytest.raises(ValueError, match=reason):
        Session(family_target(family, changes))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral", "deepseek_v3", "mpt", "gpt_neo"])
def test_bfloat16_is_judged_as_float32_is(family):
    """Rounding is a tenth of what wrong distances make of the logits."""
    changes = RIGHT[family] if family in RIGHT else REFUSED[family][1]
    assert bool(family_target(family, changes, torch.bfloat16).suitability.trees) is (family in REFUSED)


def test_a_model_is_tried_once_a_configuration(monkeypatch):
    tiny_target("llama", max_position_embeddings=128).suitability  # noqa: B018
    monkeypatch.setattr(suitability, "_Trial", None)
    assert tiny_target("llama", max_position_embeddings=128, seed=1).suitability.trees is None


def test_a_model_without_numbers_is_no_verdict_on_its_configuration():
    changes: dict[str, Any] = {"max_position_embeddings": 144}
    broken, whole = tiny_target("llama", **changes), tiny_target("llama", **changes)
    broken.model.lm_head.weight.data.fill_(torch.nan)
    assert broken.suitability.trees is None and whole.suitability.trees is None
    with pytest.raises(ValueError, match="are not finite numbers; the first that are none come from the output layer"):
        next(Session(broken).decode([1, 2, 3], GREEDY))


def test_the_documentation_lists_every_family():
    table = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    missing = [family for family in (*RIGHT, *REFUSED, *UNREADABLE) if f"`{family}`" not in table]
    assert not missing, f"docs/models.md does not name {missing}"

"""Texts that outgrow their rotary frequencies: equal to transformers' own `generate` on both sides of the change."""

from typing import Any

import pytest
from transformers import BloomConfig, MptConfig

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.rope import NO_LIMIT, RopeSwitch, context_limit, rope_switch
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, parse_policy
from tests.tiny import generated, random_ids, tiny_drafter, tiny_target, tokens_of

AT = 64
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": AT, "factor": 4.0, **FACTORS}
TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": (
        "phi3",
        {"rope_scaling": {"type": "longrope", **FACTORS}, "original_max_position_embeddings": AT},
    ),
    "llama-longrope": ("llama", {"rope_scaling": LONGROPE}),
    "dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": AT}),
    "yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": AT}),
    "linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "max_position_embeddings": AT}),
}
NUM_TOKENS = 24
TREE = EagleTree(num_nodes=12, depth=6, top_k=3)


@pytest.fixture(params=TARGETS)
def stretched(request):
    family, changes = TARGETS[request.param]
    return tiny_target(family, **changes)


@pytest.mark.parametrize("length", [AT - 20, AT - 5, AT - 1, AT, AT + 1, AT + 8])
def test_greedy_text_is_that_of_generate_on_both_sides_of_the_change(stretched, length):
    """One deep node turned the root and all siblings by other angles, and beyond the change 20 of 20 texts differed."""
    ids, options = random_ids(length), DecodeOptions(max_new_tokens=NUM_TOKENS)
    expected = generated(stretched, ids, NUM_TOKENS)
    assert tokens_of(autoregressive(stretched, ids, options)) == expected
    assert tokens_of(Session(stretched, tiny_drafter(stretched, TREE)).decode(ids, options)) == expected
    assert tokens_of(Session(stretched).decode(ids, options)) == expected


def test_turns_that_share_a_prefix_across_the_change(stretched):
    """Keys of the one regime must not serve the other: longer, then longer still, then shorter again."""
    session, options = Session(stretched, tiny_drafter(stretched, TREE)), DecodeOptions(max_new_tokens=8)
    ids = random_ids(AT + 40)
    for length in (AT - 30, AT - 4, AT + 20, AT + 30, AT - 10, AT + 25):
        assert tokens_of(session.decode(ids[:length], options)) == generated(stretched, ids[:length], 8)


def test_sampled_rounds_end_before_the_change_and_go_on_behind_it(stretched):
    session = Session(stretched, tiny_drafter(stretched, parse_policy("chain:depth=6")))
    depths = {}
    options = DecodeOptions(Sampling(1.0), NUM_TOKENS)
    for step in session.decode(random_ids(AT - 10), options, seeded(0)):
        if step.round is not None:
            start = session.cache.length - 1 - len(step.round.path)
            depths[start] = start + max(step.round.tree.depth)
    switch = rope_switch(stretched.config)
    if switch is not None:
        assert all(last < switch.at for start, last in depths.items() if start < switch.at)
        beyond = [last - start for start, last in depths.items() if start > switch.at]
        assert beyond and (max(beyond) == 0) is switch.keeps_changing


@pytest.mark.parametrize(
    ("name", "switch", "limit"),
    [
        ("phi3", RopeSwitch(AT, reads_again=True, keeps_changing=False), 256),
        ("llama-longrope", RopeSwitch(AT, reads_again=False, keeps_changing=False), 256),
        ("dynamic", RopeSwitch(AT, reads_again=False, keeps_changing=True), 4 * AT),
        ("yarn", None, 4 * AT),
        ("linear", None, 4 * AT),
    ],
)
def test_what_a_configuration_says(name, switch, limit):
    family, changes = TARGETS[name]
    config = tiny_target(family, **changes).config
    assert rope_switch(config) == switch and context_limit(config) == limit


def test_limits_under_other_names():
    llama3: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3["original_max_position_embeddings"] = 32
    assert tiny_target("llama", rope_scaling=llama3).context_limit == 256  # its positions say it already
    assert tiny_target("gpt2", max_position_embeddings=48, n_embd=32, n_layer=9, n_head=4).context_limit == 48
    assert context_limit(MptConfig(max_seq_len=40)) == 40
    assert context_limit(BloomConfig()) == NO_LIMIT

"""Turns of one session, interruptions, ends, caps and contexts: the text stays that of plain decoding."""

from dataclasses import replace
from typing import Any

import pytest

from eagle.decode import autoregressive
from eagle.sampling import Sampling, seeded
from tests.coupled.texts import WIDE, coupled, plain, session
from tests.tiny import random_ids, tiny_target, tokens_of


def next_turn(ids: list[int], said: list[int]) -> list[int]:
    return [*ids, *said, *random_ids(5, seed=4)]


def test_a_kept_prefix_changes_nothing(exact_target):
    """Trap (c): positions count from the start of the sequence, and not from what was read again."""
    one, ids = session(exact_target), random_ids(9)
    longer = next_turn(ids, tokens_of(one.decode(ids, coupled(), seeded(1))))
    for prompt in (longer, longer[:12], random_ids(6, seed=5)):
        found = tokens_of(one.decode(prompt, coupled(), seeded(2)))
        assert found == tokens_of(session(exact_target).decode(prompt, coupled(), seeded(2)))
        assert found == plain(exact_target, prompt, coupled(), 2)


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_an_interrupted_answer_leaves_the_next_one_right(exact_target, rounds):
    one, ids, generator = session(exact_target), random_ids(9), seeded(3)
    steps: Any = one.decode(ids, coupled(), generator)
    said = [token for _ in range(rounds) for token in next(steps).tokens]
    steps.close()
    prompt, again = next_turn(ids, said), seeded(3)
    assert said == plain(exact_target, ids, coupled(), 3)[: len(said)]
    tokens_of(autoregressive(exact_target, ids, coupled(num_tokens=1), again))  # the key of the interrupted one
    expected = tokens_of(autoregressive(exact_target, prompt, coupled(), again))
    assert tokens_of(one.decode(prompt, coupled(), generator)) == expected


def test_an_interrupt_between_target_and_drafter_leaves_the_next_one_right(exact_target, monkeypatch):
    one, ids = session(exact_target), random_ids(9)
    steps = one.decode(ids, coupled(), seeded(3))
    next(steps)
    with monkeypatch.context() as patched:
        patched.setattr(one.drafter, "observing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert tokens_of(one.decode(ids, coupled(), seeded(3))) == plain(exact_target, ids, coupled(), 3)


def test_the_end_of_text_ends_it_wherever_it_stands(exact_target):
    """As the bonus token or inside an accepted path; nothing behind it is emitted or counted."""
    ids, options = random_ids(9), coupled(Sampling(2.0))
    whole, inside = plain(exact_target, ids, options), 0
    for end in dict.fromkeys(whole):
        stopping = replace(options, stop_ids=frozenset({end}))
        steps = list(session(exact_target, WIDE).decode(ids, stopping, seeded(0)))
        assert tokens_of(steps) == whole[: whole.index(end) + 1] == plain(exact_target, ids, stopping)
        assert steps[-1].finish == "stop" and steps[-1].num_accepted <= len(steps[-1].tokens)
        inside += steps[-1].num_accepted == len(steps[-1].tokens)
    assert inside  # some ended within the path


@pytest.mark.parametrize("cap", [1, 2, 3, 7])
def test_a_cap_below_a_tree_cuts_the_same_text(exact_target, cap):
    ids, options = random_ids(9), coupled(Sampling(2.0), cap)
    steps = list(session(exact_target, WIDE).decode(ids, options, seeded(0)))
    assert tokens_of(steps) == plain(exact_target, ids, coupled(Sampling(2.0)))[:cap]
    assert steps[-1].finish == "length"


def test_a_full_context_ends_it_where_plain_decoding_ends():
    target = tiny_target(max_position_embeddings=24)
    target.model.double()
    ids, options = random_ids(9), coupled(num_tokens=100)
    steps = list(session(target).decode(ids, options, seeded(0)))
    assert steps[-1].finish == "context" and len(ids) + len(tokens_of(steps)) == 25
    assert tokens_of(steps) == plain(target, ids, options)


def test_a_text_that_is_read_again_keeps_its_positions():
    """Where angles change with the length the whole text is read afresh, in the middle of an answer."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]}
    target = tiny_target("phi3", rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=24)
    target.model.double()
    ids, options = random_ids(20), coupled(Sampling(2.0))
    for seed in range(2):
        found = tokens_of(session(target, WIDE).decode(ids, options, seeded(seed)))
        assert found == plain(target, ids, options, seed) and len(ids) < 24 < len(ids) + len(found)

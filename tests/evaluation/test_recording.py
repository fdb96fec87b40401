"""What is counted: not the prefill's token, not what follows the end of text, not what is over the cap."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from eagle.decode import DecodeOptions, Session, Step, autoregressive
from eagle.sampling import Sampling, seeded
from eagle.timing import PhaseClock
from eagle.trees import EagleTree, SampledChain
from evaluation.expected import ExactTau
from evaluation.recording import Generation, record
from tests.tiny import random_ids, tiny_drafter

END = frozenset({9})
CPU = torch.device("cpu")
STEPS = (Step((1,), 0), Step((2, 3, 4), 2), Step((5,), 0), Step((6, 9), 2, "stop"))


def recorded(steps=STEPS) -> Generation:
    return record(iter(steps), PhaseClock(CPU))


def test_tokens_rounds_and_accepted_of_known_steps():
    generation = recorded().check(END, 20)
    assert generation.tokens == (1, 2, 3, 4, 5, 6, 9)
    assert (generation.accepted, generation.emitted) == ((2, 0, 2), (3, 1, 2))
    assert (generation.rounds, generation.num_decoded, generation.finish) == (3, 6, "stop")


def test_an_empty_last_step_is_no_round():
    """A full context ends with a step that emits nothing; it cost no target pass."""
    assert recorded([*STEPS[:3], Step((), 0, "context")]).rounds == 2


def counts_after_the_end(steps) -> Generation:
    kept = recorded(steps)
    return replace(kept, tokens=(*kept.tokens, 7), emitted=(3, 1, 3))


def counts_the_prefill_as_a_round(steps) -> Generation:
    kept = recorded(steps)
    return replace(kept, accepted=(0, *kept.accepted), emitted=(1, *kept.emitted))


def counts_the_prefill_token_as_decoded(steps) -> Generation:
    return replace(recorded(steps), num_first=0)


def counts_the_bonus_as_accepted(steps) -> Generation:
    kept = recorded(steps)
    return replace(kept, accepted=tuple(a + 1 for a in kept.accepted))


FAULTS = [
    (counts_after_the_end, "ends the text"),
    (counts_the_prefill_as_a_round, "belongs to no round"),
    (counts_the_prefill_token_as_decoded, "belongs to no round"),
    (counts_the_bonus_as_accepted, "accepted more tokens than it emitted"),
]


@pytest.mark.parametrize(("faulty", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_harness_that_counts_wrongly_is_caught(faulty, message):
    """Every row passes `check` before it is written, so a fault like these stops the run at its first answer."""
    with pytest.raises(ValueError, match=message):
        faulty(STEPS).check(END, 20)


def test_more_tokens_than_the_cap_are_caught():
    with pytest.raises(ValueError, match="over the cap of 6"):
        recorded().check(END, 6)


def test_the_time_of_whoever_consumes_is_not_counted_and_phases_start_behind_the_prefill():
    """Exact laws are computed between steps. Here the steps are free, and only clocked work counts."""
    clock = PhaseClock(CPU)

    def steps() -> Iterator[Step]:
        for step in STEPS:
            clock.seconds["target"] += 10  # the prefill's ten belong to the prefill
            yield step

    seconds = record(steps(), clock).seconds
    assert seconds.target == 30 and seconds.decode < 1
    assert seconds.rest == pytest.approx(seconds.decode - 30)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_real_sessions_pass_their_own_check(target, temperature):
    options = DecodeOptions(Sampling(temperature), max_new_tokens=40)
    for policy in (EagleTree(), SampledChain(3)):
        clock, session = PhaseClock(CPU), Session(target, tiny_drafter(target, policy))
        exact = ExactTau(frozenset(), temperature == 0)
        generation = record(session.decode(random_ids(9), options, seeded(1), clock), clock, exact).check(
            frozenset(), 40
        )
        assert len(generation.shapes) == generation.rounds and sum(generation.emitted) == 39
        assert 0 < generation.seconds.target < generation.seconds.decode
    plain = record(autoregressive(target, random_ids(9), options, seeded(1), clock), clock)
    assert plain.rounds == 39 and sum(plain.accepted) == 0 and plain.shapes == ()

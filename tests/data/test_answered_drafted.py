"""Training data written with a draft head: the rows of the batched loop, whatever is drafted and beside whom."""

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from eagle.data.answered_drafted import DraftedDecoder, drafted_sessions
from eagle.data.conversations import TokenRow, read_conversations
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.batched import Answered, AnswerLimits, Job
from eagle.engine.target import Target
from eagle.judging import COUPLED
from eagle.sampling import Sampling, seeded
from eagle.trees.automatic import AutoTree
from tests import tiny_text
from tests.data.test_answered_elsewhere import END, of_three_turns
from tests.shared_passes import counted_passes
from tests.tiny import tiny_head


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(tiny_text.target(), tiny_text.tokenizer())


@pytest.fixture(scope="module")
def head(target) -> DraftHead:
    return tiny_head(target, draft_vocab_size=150)


@pytest.fixture
def new_session(target, head):
    return lambda: Session(target, EagleDrafter(head, target.embed, AutoTree()))


@pytest.fixture
def config(tmp_path) -> PrepareConfig:
    return of_three_turns(tmp_path, head="named", batch=3)


def run(config: PrepareConfig, target: Target, new_session=None) -> dict[str, TokenRow]:
    prepare(config, target.model, tiny_text.tokenizer(), END, new_session=new_session)
    found = list(read_conversations(Path(config.output), config.max_length, tiny_text.VOCAB_SIZE, Counter()))
    assert len({row.id for row in found}) == len(found), "a row was repeated"
    return {row.id: row for row in found}


def test_greedy_rows_are_those_of_the_batched_loop(config, target, new_session, tmp_path, monkeypatch):
    plain = run(replace(config, head=None, num_lanes=3, group_size=1, output=str(tmp_path / "own")), tiny_target())
    passes = counted_passes(monkeypatch)
    drafted = run(config, target, new_session)
    assert drafted == plain
    assert any(name.endswith("/turn-3") for name in drafted), "no conversation has several turns"
    assert max(passes) == 3, "rows did not share passes"


def tiny_target() -> Target:
    """One of its own: the batched loop leaves its model another attention."""
    return Target(tiny_text.target(), tiny_text.tokenizer())


def test_a_killed_run_goes_on_without_losing_or_repeating_a_row(config, target, new_session):
    """Above temperature 0 too, and beside other conversations: a text follows from its seed."""
    config = replace(config, greedy_share=0.3)
    whole = run(replace(config, output=config.output + "-whole"), target, new_session)
    run(replace(config, max_answer_tokens=10), target, new_session)
    begun = run(replace(config, max_answer_tokens=10), target, new_session)
    assert 0 < len(begun) < len(whole)
    assert run(replace(config, batch=2), target, new_session) == whole
    assert {row.temperature for row in whole.values()} == {0.0, 1.0}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_turn_is_the_targets_own_text(target, new_session, temperature):
    """Every turn of every job, against plain decoding with the job's noise."""
    limits, end = AnswerLimits(max_new_tokens=20, max_length=90), 257
    jobs = [Job(str(n), ((1, 2, 3 + n), (end, 40, 41, 42), (43, 44)), temperature, seed=n) for n in range(5)]
    answers = {answered.job.id: answered for answered in DraftedDecoder(new_session, END, limits, 2).answer(jobs)}
    assert answers.keys() == {job.id for job in jobs}
    for job in jobs:
        answered, generator = answers[job.id], seeded(job.seed)
        for start, stop in answered.spans:
            options = DecodeOptions(Sampling(temperature), min(20, 90 - start), COUPLED, ignore_end=True, stop_ids=END)
            steps = autoregressive(target, answered.input_ids[:start], options, generator)
            assert list(chain.from_iterable(step.tokens for step in steps)) == answered.input_ids[start:stop]
    assert max(len(answered.spans) for answered in answers.values()) > 1, "no job has a second turn"
    assert all(ends_rightly(answered, limits) for answered in answers.values())


def ends_rightly(answered: Answered, limits: AnswerLimits) -> bool:
    """A finished answer ends with an end of turn, a cut one at a limit."""
    ids = answered.input_ids
    return all(
        (ids[stop - 1] in END) if finish == "stop" else stop - start == limits.max_new_tokens or stop == 90
        for (start, stop), finish in zip(answered.spans, answered.finish, strict=True)
    )


def test_a_conversation_beyond_the_context_is_refused_before_anything_is_read(new_session):
    with pytest.raises(ValueError, match="max_length is 513, the target reads 512 tokens: lower it to that"):
        DraftedDecoder(new_session, END, AnswerLimits(8, 513))


def test_a_head_goes_with_answers_that_are_written_here(config, target):
    with pytest.raises(ValueError, match="head is 'named', and the target answers nothing here: leave it out"):
        replace(config, answers="original")
    with pytest.raises(ValueError, match="head is 'named', and the target answers nothing here: leave it out"):
        replace(config, endpoint="http://127.0.0.1:1/v1")
    with pytest.raises(ValueError, match="head is 'named', new_session is None: both or neither"):
        prepare(config, target.model, tiny_text.tokenizer(), END)
    assert drafted_sessions(target, None, 4) is None

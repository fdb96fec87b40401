"""Which session a prompt gets, how tokens are spelt, and what options are refused."""

import pytest

from eagle.decode import DecodeOptions, Session
from eagle.serving.pool import SessionPool
from eagle.serving.serve_options import ServeOptions
from eagle.serving.spelling import Spelling, byte_letters
from tests import tiny_text
from tests.tiny import random_ids, tiny_target


@pytest.fixture
def pool(target) -> SessionPool:
    return SessionPool(lambda: Session(target), most=2)


def read(pool: SessionPool, ids: list[int]) -> Session:
    """A session that has read these."""
    session = pool.take(ids)
    list(session.decode(ids, DecodeOptions(max_new_tokens=1)))
    pool.give_back(session)
    return session


def test_a_prompt_gets_the_session_that_has_read_its_beginning(pool):
    first, second = random_ids(20, seed=1), random_ids(20, seed=2)
    sessions = [read(pool, first), read(pool, second)]
    assert sessions[0] is not sessions[1] and len(pool) == 2 and pool.num_tokens == 40
    assert read(pool, [*second, 5]) is sessions[1] and sessions[1].num_reused == 19
    assert read(pool, [*first, 5]) is sessions[0]


def test_a_strange_prompt_takes_the_session_used_longest_ago(pool):
    first, second = random_ids(20, seed=1), random_ids(20, seed=2)
    oldest = read(pool, first)
    read(pool, second)
    assert read(pool, [96, *random_ids(5, seed=3)]) is oldest


def test_a_conversation_is_not_given_up_for_a_common_beginning(pool):
    first = read(pool, random_ids(30, seed=1))
    assert read(pool, [*random_ids(30, seed=1)[:5], 96, 96]) is not first


def test_without_reuse_every_prompt_is_read_whole(target):
    pool, ids = SessionPool(lambda: Session(target), most=1, reuse=False), random_ids(20)
    first = read(pool, ids)
    second = read(pool, [*ids, 5])
    assert second is not first and second.num_reused == 0 and len(pool) == 0


def test_there_are_no_more_sessions_than_allowed(pool):
    pool.take([1])
    pool.take([2])
    with pytest.raises(RuntimeError, match="all 2 sessions are in use"):
        pool.take([3])
    pool.drop()
    assert pool.take([3]) is not None


def test_bytes_of_tokens_that_are_no_character():
    spelling = Spelling(tiny_text.tokenizer())
    ids = tiny_text.tokenizer()("é!")["input_ids"]
    assert [spelling.bytes(token) for token in ids] == [b"\xc3", b"\xa9", b"!"]
    assert spelling.text(ids[2]) == "!" and spelling.text(257) == "<|im_end|>"
    assert sorted(byte_letters().values()) == list(range(256))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 70000}, "port is 70000"),
        ({"max_active": 0}, "max_active is 0"),
        ({"max_active": 4, "max_sessions": 3}, "max_sessions is 3, it must be at least 4"),
        ({"max_body_mb": 0.0}, "max_body_mb is 0"),
    ],
)
def test_options_outside_their_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ServeOptions(**fields)


def test_what_is_kept_counts_and_not_what_was_read(target):
    """Of a prompt that is asked again everything is of use, however long its answer was."""
    pool, ids = SessionPool(lambda: Session(target, block=8), most=2), random_ids(20)
    first = pool.take(ids)
    list(first.decode(ids, DecodeOptions(max_new_tokens=60)))
    pool.give_back(first)
    assert first.num_kept == 16 and pool.take(ids) is first


def test_num_shared_counts_what_prompt_and_session_begin_with():
    session = Session(tiny_target())
    assert session.num_shared([1, 2]) == 0
    list(session.decode([1, 2, 3], DecodeOptions(max_new_tokens=1)))
    assert [session.num_shared(ids) for ids in ([1, 2, 3, 4], [1, 2], [1, 9], [])] == [3, 2, 1, 0]

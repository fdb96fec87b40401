"""The noise field as a function: of its key, position and token, and of nothing else."""

import math

import numpy as np
import pytest
import torch

from eagle import noise
from eagle.noise import KEPT_ROWS, NoiseField, answer_key
from eagle.sampling import Sampling, seeded
from tests import slow_noise
from tests.conftest import needs_gpu
from tests.counts import ONE_IN_A_MILLION_EITHER_SIDE, sigmas

# what the authors' own code prints first in these states
PUBLISHED = {
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F],
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
}
SIZES = [1, 2, 63, 64, 65, 97, 128, 1000, 49_152]


def test_words_are_those_of_splitmix64():
    for state, expected in PUBLISHED.items():
        found = noise._words(noise._signed(state), torch.arange(1, len(expected) + 1))
        assert [word % 2**64 for word in found.tolist()] == expected
        states = [(state + i * noise.GAMMA) % 2**64 for i in range(len(expected))]
        assert [noise._mixed(state) for state in states] == expected
        assert slow_noise.splitmix64(np.array(states, np.uint64)).tolist() == expected


@pytest.mark.parametrize("key", [0, 1, 1 << 40, 2**63 - 2])
def test_words_and_numbers_are_those_of_the_definition(key):
    """Integers to the bit; logarithms of numpy and torch may differ in the last one."""
    positions, tokens = [0, 1, 17, 131_071], torch.tensor([0, 1, 63, 64, 4_000, 49_151, 128_255])
    for position, expected in zip(positions, slow_noise.words(key, positions, tokens.numpy()), strict=True):
        found = noise._words(noise._row(key, position), tokens)
        assert [word % 2**64 for word in found.tolist()] == expected.tolist()
    found = torch.stack([NoiseField(key).at(position, tokens) for position in positions])
    races = torch.from_numpy(slow_noise.races(key, positions, tokens.numpy()))
    torch.testing.assert_close((-found).exp(), races, rtol=1e-14, atol=0)


def test_the_numbers_stay_what_they_were():
    """A seed is promised its text: other numbers would be other answers for every seed."""
    expected = [1.6813303307771847, 0.2179362323372008, 1.4941358132530673, 1.0444638510958135, 0.48531444834733556]
    found = NoiseField(7).at(12, torch.tensor([0, 1, 63, 64, 49_151])).tolist()
    assert found == pytest.approx(expected, rel=1e-12)
    assert answer_key(seeded(7)) == 1407639518939636932


@pytest.mark.parametrize("size", SIZES)
def test_a_number_is_the_same_whoever_asks_for_it(size):
    """In whatever order, slice, repetition, width of integers, vocabulary size, company of positions or field."""
    whole = NoiseField(3).rows([5, 6], 128_256)[0]  # (V,)
    field, tokens = NoiseField(3), torch.randperm(size, generator=seeded(0))
    assert torch.equal(field.rows([5], size)[0], whole[:size])
    assert torch.equal(field.at(5, tokens), whole[tokens])
    assert torch.equal(field.at(5, tokens.repeat(2)), whole[tokens].repeat(2))
    assert torch.equal(field.at(5, tokens.int()), whole[tokens])
    assert torch.equal(field.at(5, tokens[size // 3 :: 2]), whole[tokens[size // 3 :: 2]])
    assert [float(field.at(5, token[None])) for token in tokens[:20]] == whole[tokens[:20]].tolist()
    assert torch.equal(field.draft_row(5, tokens), whole[tokens].float())


def test_another_key_or_position_is_another_number():
    tokens = torch.arange(500)
    rows = [
        NoiseField(key).at(position, tokens) for key in (0, 1, 2**40, 2**40 + 1, 2**62) for position in (0, 1, 2**20)
    ]
    assert len(torch.cat(rows).unique()) == len(rows) * len(tokens)


def test_a_key_and_a_position_do_not_change_places():
    """Both went through one mixing and were joined by xor: key 2^40 + 5 at position 6 was key 2^40 + 6 at 5."""
    tokens, start = torch.arange(8), 1 << 40
    assert not torch.equal(NoiseField(start + 5).at(6, tokens), NoiseField(start + 6).at(5, tokens))
    assert not torch.equal(NoiseField(5).at(5, tokens), NoiseField(6).at(6, tokens))
    assert not torch.equal(NoiseField(start + 5).at(5, tokens), NoiseField(start + 6).at(6, tokens))


def test_no_tokens_have_no_numbers():
    """An empty list ended in torch's error about the maximum of nothing."""
    none = torch.empty(0, dtype=torch.int64)
    assert NoiseField(0).at(1, none).shape == NoiseField(0).draft_row(1, none).shape == (0,)


@pytest.mark.parametrize("token", [-1, -(2**40), 2**40])
def test_what_is_no_token_is_refused(token):
    """Token -1 silently got the number of another group."""
    with pytest.raises(ValueError, match=rf"token {token} has no noise, tokens lie in 0\.\.2\^40 - 1"):
        NoiseField(0).at(1, torch.tensor([3, token, 5]))


def test_rows_for_the_draft_are_remembered_and_not_for_ever():
    field, ids, others = NoiseField(0), torch.arange(0, 90, 2), torch.arange(1, 90, 2)
    row = field.draft_row(4, ids)
    assert field.draft_row(4, ids) is row and row.dtype == torch.float32
    assert torch.equal(field.draft_row(4, others), field.at(4, others).float())  # another head, in the same answer
    for position in range(5, 5 + KEPT_ROWS):
        field.draft_row(position, ids)
    assert len(field._kept) == KEPT_ROWS
    assert field.draft_row(4, ids) is not row and torch.equal(field.draft_row(4, ids), row)


def scores_of(kind: str, size: int, seed: int) -> torch.Tensor:
    """Scores (V,) that are awkward in one way."""
    generator = seeded(seed)
    scores = torch.randn(size, generator=generator)
    some = torch.rand(size, generator=generator)
    return {
        "flat": lambda: torch.zeros(size),
        "usual": lambda: 4 * scores,
        "peaked": lambda: 30 * scores,
        "one far ahead": lambda: scores.index_fill(0, some.argmax(), 60.0),
        "half ruled out": lambda: scores.masked_fill(some < 0.5, -torch.inf).index_fill(0, some.argmax(), 0.0),
        "few left": lambda: (9 * scores).masked_fill(some < some.sort().values[-3:][0], -torch.inf),
        "one left": lambda: torch.full((size,), -torch.inf).index_fill(0, some.argmax(), -1e30),
        "the last left": lambda: torch.full((size,), -torch.inf).index_fill(0, torch.tensor(size - 1), 3.0),
        "huge": lambda: 1e30 * scores,
        "huge and equal": lambda: torch.full((size,), 1e30).masked_fill(some < 0.3, -1e30),
        "steps": lambda: scores.round() * 1e18,
        "very cold": lambda: Sampling(1e-25).scores(scores),
        "cold": lambda: Sampling(1e-3).scores(scores),
    }[kind]()


KINDS = [
    "flat", "usual", "peaked", "one far ahead", "half ruled out", "few left", "one left", "the last left", "huge",
    "huge and equal", "steps", "very cold", "cold",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_best_token_is_that_of_the_whole_row(size, kind):
    """The search by groups and the pass over all numbers agree; of equal ones both take the first."""
    field = NoiseField(11)
    for position in range(3 if size > 5_000 else 12):
        scores = scores_of(kind, size, position)
        for given in (scores, scores.double(), scores.bfloat16()):
            expected = (given.double() + field.rows([position], size)[0]).argmax()
            assert field.best_of_groups(given, position) == expected == field.best_of_row(given, position)
            assert field.best(given, position) == expected


def test_equal_scores_beyond_the_noise_are_settled_by_the_lower_id():
    """The likeliest group was looked at first: of equal tokens that of the group with the luckier noise won."""
    scores = torch.full((1_000,), -1e30)
    scores[[130, 400, 700, 999]] = 1e25
    assert [int(NoiseField(0).best(scores, position)) for position in range(20)] == [130] * 20


def test_a_token_that_is_ruled_out_never_wins():
    left = torch.tensor([3, 70, 199])
    scores = torch.full((200,), -torch.inf).index_fill(0, left, 0.0)
    found = {int(NoiseField(0).best(scores, position)) for position in range(100)}
    assert found == set(left.tolist())


def test_races_keep_their_relative_precision_where_they_are_won():
    """Words made by hand: `Pr(E < x) / x` goes to 1 down to x = 1e-12, where float32 has nothing below 6e-8."""
    for x in (1e-6, 1e-9, 1e-12):
        below = math.floor(-math.expm1(-x) * 2.0**58 - 0.5)  # the last word whose number is below x
        first, last, beyond = noise._exponential(torch.tensor([0, below - 1, below + 2]) << noise.OWN_BITS).tolist()
        assert 0 < first < last < x < beyond
        assert (below + 1) / 2.0**58 / x == pytest.approx(1, abs=max(x, 1e-5))
    smallest = noise._exponential(torch.tensor([0, 1, 2]) << noise.OWN_BITS)
    assert smallest.tolist() == pytest.approx([0.5 * 2.0**-58, 1.5 * 2.0**-58, 2.5 * 2.0**-58], rel=1e-15)


def test_no_word_gives_nothing_or_infinity():
    """All bits set, none set, the sign alone; the last six bits say who is first and change no number."""
    edges = torch.tensor([0, 63, -1, -64, 2**63 - 1, -(2**63)])
    races = noise._exponential(edges)
    assert (races > 0).all() and races.isfinite().all() and races.max() > 36
    assert races[0] == races[1] and races[2] == races[3]


def test_tokens_of_probability_1e_12_win_as_often_as_they_should(monkeypatch):
    """With float32 uniforms none below 6e-8 ever won. Importance sampling: the upper 32 bits of one group's word are
    cleared, which happens once in 2^32; its 64 tokens of 1e-12 each then win with probability (1 - exp(-c)) / c,
    c = 2^-32 / 64e-12. A right build is blamed once in a million, by every one of two counts.
    """
    scores = torch.zeros(128).double()
    scores[64:] = math.log(1e-12)
    scores[:64] = math.log((1 - 64e-12) / 64)
    real = noise._words

    def rare(row, index):
        found = real(row, index)
        low = (found >> 38 & (1 << 26) - 1) << noise.OWN_BITS | found & (noise.GROUP - 1)
        return torch.where(index == noise.FIRSTS + 1, low, found)

    monkeypatch.setattr(noise, "_words", rare)
    field, draws, c = NoiseField(5), 3_000, 2.0**-32 / 64e-12
    wins = torch.tensor([int(field.best(scores, position)) for position in range(draws)])
    rare_wins = wins[wins >= 64]
    assert abs(sigmas(len(rare_wins), draws, (1 - math.exp(-c)) / c)) < ONE_IN_A_MILLION_EITHER_SIDE
    assert abs(sigmas(int((rare_wins < 96).sum()), len(rare_wins), 0.5)) < ONE_IN_A_MILLION_EITHER_SIDE


def test_every_answer_gets_a_key_of_its_own_and_a_seed_the_same_ones():
    keys = [[answer_key(generator) for _ in range(200)] for generator in (seeded(3), seeded(3), seeded(4))]
    assert keys[0] == keys[1]
    assert len({*keys[0], *keys[2]}) == 400
    assert all(0 <= key < 2**63 for key in keys[0]) and max(keys[0]) > 2**62


def test_without_a_generator_keys_come_from_torchs_own():
    """Not the same one for every answer, and `torch.manual_seed` repeats them."""
    torch.manual_seed(5)
    first = [answer_key(None) for _ in range(3)]
    torch.manual_seed(5)
    assert [answer_key(None) for _ in range(3)] == first and len(set(first)) == 3


@needs_gpu
def test_an_accelerator_has_the_same_field():
    """Integers to the bit, so that only the last bits of a logarithm can differ."""
    tokens, scores = torch.arange(128_256), torch.randn(128_256)
    words = [noise._words(noise._row(3, 9), tokens.to(device)).cpu() for device in ("cpu", "cuda")]
    assert torch.equal(*words)
    here, there = NoiseField(3), NoiseField(3, "cuda")
    races = [(-field.rows([9], 128_256)[0]).exp().cpu() for field in (here, there)]
    torch.testing.assert_close(*races, rtol=1e-14, atol=0)
    torch.testing.assert_close(here.at(9, tokens), there.at(9, tokens.cuda()).cpu(), rtol=1e-14, atol=1e-15)
    assert [int(here.best(scores, p)) for p in range(20)] == [int(there.best(scores.cuda(), p)) for p in range(20)]
    assert answer_key(seeded(3, "cuda")) == answer_key(seeded(3, "cuda"))

"""What the field must not serve: wrong uses, each off by an amount that is known in closed form, beside the right one.

With races E of rate 1 a token is the best of weights w where E / w is least. Counts are of 1,000 or more draws; a right
build is blamed once in a million by each.
"""

import numpy as np
import pytest
import torch

from eagle.judging import ChosenTokens
from eagle.noise import NoiseField
from eagle.sampling import Sampling
from tests import slow_noise
from tests.counts import ONE_IN_A_MILLION, ONE_IN_A_MILLION_EITHER_SIDE, chi_square, chi_square_quantile, sigmas

WARM, KEYS = Sampling(1.0), 1_000
P, Q = np.array([0.2, 0.4, 0.4]), np.array([0.7, 0.2, 0.1])  # target's and draft's
RESIDUAL = np.array([0.0, 0.2, 0.3])  # [P - Q]+
DRAWS = 200_000


def both_best(a: int, p: np.ndarray, r: np.ndarray) -> float:
    """The probability that one race decides for token a under p and under r."""
    return float(1 / np.maximum(p / p[a], r / r[a]).sum())


def decided(judged: ChosenTokens, law: np.ndarray, position: int) -> int:
    return judged.token(torch.from_numpy(law).log(), position)


def pairs(first_at: int, second_at: int) -> list[tuple[int, int]]:
    """A token by P and the one behind it by Q, for many keys."""
    judges = [ChosenTokens(WARM, NoiseField(key), None) for key in range(KEYS)]
    return [(decided(judged, P, first_at), decided(judged, Q, second_at)) for judged in judges]


def test_a_bonus_token_by_the_noise_of_the_position_before_is_biased():
    """Two tokens in a row are then alike with another probability, and theirs is known."""
    wrong, right = (sum(both_best(a, P, Q) for a in range(3)), float((P * Q).sum()))
    assert abs(wrong - right) > 1e-3
    alike = sum(a == b for a, b in pairs(8, 8))
    assert abs(sigmas(alike, KEYS, wrong)) < ONE_IN_A_MILLION_EITHER_SIDE < abs(sigmas(alike, KEYS, right))


def test_tokens_by_the_noise_of_their_own_positions_are_independent():
    """The counterpart: all nine pairs against the product of the laws."""
    found = torch.tensor([3 * a + b for a, b in pairs(8, 9)]).bincount(minlength=9).double()
    statistic, degrees = chi_square(found, torch.from_numpy(KEYS * np.outer(P, Q).ravel()))
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


ACCEPTED = np.minimum(1, P / Q)  # of each token once drafted


def fair(_drafted: np.ndarray, _races: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).random(DRAWS)


def of_the_race_it_won(drafted: np.ndarray, races: np.ndarray) -> np.ndarray:
    """Uniform for a token taken blindly, but this one was chosen for its small race."""
    return -np.expm1(-races[np.arange(DRAWS), drafted])


def races_at(position: int) -> np.ndarray:
    """DRAWS races of three tokens, (DRAWS, 3)."""
    return slow_noise.races(1, [position], np.arange(3 * DRAWS)).reshape(DRAWS, 3)


def emitted(uniform, residual_at: int) -> np.ndarray:
    """How often each token comes of a rule that drafts by the field, accepts with min(1, p / q) or draws again."""
    races, again = races_at(5), races_at(residual_at)
    drafted = (races / Q).argmin(-1)
    rest = 1 + (again[:, 1:] / RESIDUAL[1:]).argmin(-1)
    return np.bincount(np.where(uniform(drafted, races) < ACCEPTED[drafted], drafted, rest), minlength=3)


def test_a_residual_by_the_noise_that_the_draft_has_read_is_biased():
    """Where the draft's token 0 is rejected, both others lost a race, and the likelier one in the draft by less luck.

    With t the winner's time they stand at Q t and a fresh race more; token 1 then comes with 0.4 / 1.2 and not 0.4.
    """
    wrong = float(Q[1] + 0.5 * 0.4 / 1.2)
    assert abs(wrong - P[1]) > 0.03
    count = emitted(fair, residual_at=5)[1]
    assert abs(sigmas(count, DRAWS, wrong)) < ONE_IN_A_MILLION_EITHER_SIDE < abs(sigmas(count, DRAWS, P[1]))


def test_an_acceptance_by_the_race_that_chose_the_token_is_biased():
    """Token 0 wins with a race of 0.7 t: it is accepted with 1 - (1 - 2/7)^(1 / 0.7) and not 2/7."""
    wrong = float(Q[0] * (1 - (1 - ACCEPTED[0]) ** (1 / Q[0])))
    assert abs(wrong - P[0]) > 0.05
    count = emitted(of_the_race_it_won, residual_at=6)[0]
    assert abs(sigmas(count, DRAWS, wrong)) < ONE_IN_A_MILLION_EITHER_SIDE < abs(sigmas(count, DRAWS, P[0]))


def test_numbers_that_the_draft_has_not_read_make_the_same_rule_right():
    """The counterpart of both, so that it is the noise and not the rule that was wrong above."""
    found = torch.from_numpy(emitted(fair, residual_at=6)).double()
    statistic, degrees = chi_square(found, torch.from_numpy(DRAWS * P))
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)


@pytest.mark.parametrize("shared", [True, False], ids=["one key", "a key each"])
def test_two_answers_by_one_key_hang_together(shared):
    """Two prompts, so two laws; by one key their tokens are alike with the probability of one race, else of two."""
    alike = 0
    for key in range(KEYS):
        judges = [ChosenTokens(WARM, NoiseField(k), None) for k in (key, key if shared else key + KEYS)]
        alike += decided(judges[0], P, 3) == decided(judges[1], Q, 3)
    together, apart = sum(both_best(a, P, Q) for a in range(3)), float((P * Q).sum())
    expected, other = (together, apart) if shared else (apart, together)
    assert abs(sigmas(alike, KEYS, expected)) < ONE_IN_A_MILLION_EITHER_SIDE < abs(sigmas(alike, KEYS, other))

"""Costs between measured sizes, survival curves and what is done to them."""

import pytest

from eagle.hierarchy.curves import CostCurve, Survival, alpha_of, falling


def test_costs_are_linear_in_between_level_before_and_go_on_with_the_last_slope():
    curve = CostCurve((1, 5, 9), (10.0, 12.0, 20.0))
    assert [curve.at(n) for n in (0, 1, 3, 5, 7, 9, 11)] == [10, 10, 11, 12, 16, 20, 24]
    assert CostCurve((4,), (7.0,)).at(100) == 7.0


def test_noise_does_not_make_tokens_free():
    assert CostCurve.rising((1, 2, 3), (5.0, 4.0, 6.0)).ms == (5.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("tokens", "ms", "message"),
    [
        ((), (), "0 tokens|0 and 0"),
        ((1, 2), (1.0,), "as many"),
        ((2, 1), (1.0, 2.0), "ascend"),
        ((1, 1), (1.0, 2.0), "ascend"),
        ((-1, 1), (1.0, 2.0), "ascend"),
        ((1, 2), (2.0, 1.0), "fall"),
        ((1, 2), (-1.0, 1.0), "negative"),
        ((1, 2), (1.0, float("nan")), "number"),
        ((1, 2), (1.0, float("inf")), "finite"),
        ((1, 2), (1.0, 1e300), "at most 1000000000"),
        ((1.5, 2), (1.0, 2.0), "whole"),
    ],
)
def test_curves_that_are_none_are_refused(tokens, ms, message):
    with pytest.raises(ValueError, match=message):
        CostCurve(tokens, ms)


@pytest.mark.parametrize("reached", [(), (1.1,), (0.5, 0.6), (0.5, -0.1), (float("nan"),)])
def test_survival_falls_from_one(reached):
    with pytest.raises(ValueError, match=r"surviv|number"):
        Survival(reached)


def test_beyond_the_measured_window_survival_falls_at_its_mean_rate():
    curve = Survival((0.9, 0.64))
    assert [curve.at(a) for a in range(5)] == pytest.approx([1, 0.9, 0.64, 0.512, 0.4096])
    assert curve.accepted(3) == pytest.approx(0.9 + 0.64 + 0.512)
    assert Survival((0.5, 0.0)).at(7) == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95, 1.0])
def test_alpha_is_that_of_the_geometric_curve(alpha):
    assert Survival.geometric(alpha, 6).alpha == pytest.approx(alpha, abs=1e-9)
    assert alpha_of(Survival.geometric(alpha, 6).accepted(6), 6) == pytest.approx(alpha, abs=1e-9)


def test_a_shift_is_one_of_every_tokens_acceptance():
    assert Survival.geometric(0.8, 4).shifted(0.1).reached == pytest.approx(Survival.geometric(0.9, 4).reached)
    assert Survival((0.95, 0.5)).shifted(0.1).reached == pytest.approx((1.0, 0.5 / 0.95 + 0.1))
    assert Survival((0.5, 0.0)).shifted(-1).reached == (0.0, 0.0)
    assert Survival((0.5, 0.2)).shifted(0.0).reached == pytest.approx((0.5, 0.2))


def test_noisy_curves_are_pooled_and_not_dragged_down():
    """The running minimum of 0.9, 0.5, 0.7, 0.3 would be 0.9, 0.5, 0.5, 0.3: one low value believed, one not."""
    assert falling([0.9, 0.5, 0.7, 0.3], [1, 1, 1, 1]) == pytest.approx((0.9, 0.6, 0.6, 0.3))
    assert falling([0.5, 0.7], [3, 1]) == pytest.approx((0.55, 0.55))
    assert falling([0.1, 0.2, 0.9], [1, 1, 1]) == pytest.approx((0.4, 0.4, 0.4))
    assert falling([0.9, 0.8], [1, 1]) == (0.9, 0.8)
    assert falling([], []) == ()
    assert max(falling([1 - 1e-16, 1.0, 1.0], [3, 7, 11])) <= 1.0

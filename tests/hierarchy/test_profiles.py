"""Profiles as files, counts as curves, and what does not fit together."""

import json
from dataclasses import asdict, replace
from typing import cast

import pytest

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.curves import CostCurve
from eagle.hierarchy.profiles import Profile
from tests.hierarchy.toy import random_profile

FLAT = CostCurve((0,), (1.0,))
SMALL, LARGE = Model("small", 1.0, FLAT), Model("large", 4.0, FLAT, weight_bytes=8, cache_bytes=2)
HEAD = Proposer("head", CostCurve((1, 4), (0.1, 0.4)), readers=("small",), nodes=8)
COUNTED = Acceptance("large", "small", offered=((4, 4), (6, 3)), accepted=((4, 1), (2, 1)))
PROFILE = Profile((SMALL, LARGE), (COUNTED,), (HEAD,), ("a", "b"), {"machine": "one of ours", "seed": 3})


def test_a_profile_comes_back_as_it_was_written(tmp_path):
    for profile in (PROFILE, random_profile(1, num_proposers=2)):
        profile.write(tmp_path / "profile.json")
        assert Profile.read(tmp_path / "profile.json") == profile
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_counts_make_a_curve_clustered_by_prompt():
    assert COUNTED.survival().reached == pytest.approx((0.6, 2 / 7))
    assert COUNTED.survival([1, 0]).reached == pytest.approx((1.0, 0.25))
    assert COUNTED.survival([0, 2]).reached == pytest.approx((1 / 3, 1 / 3))
    assert PROFILE.resampled([("large", "small")], [0, 1]).survival("large", "small").reached == pytest.approx(
        (1 / 3, 1 / 3)
    )


def test_a_curve_ends_where_no_window_was_as_long():
    assert Acceptance("large", "small", offered=((2, 0),), accepted=((1, 0),)).survival().reached == (0.5,)
    assert COUNTED.survival([0, 0]).reached == (0.0,)  # a resample may have drawn prompts without a window


def test_later_places_with_fewer_windows_do_not_make_a_curve_rise():
    """Windows end early at ends of text; the ones that go on may be the easy ones."""
    counted = Acceptance("large", "small", offered=((10, 2),), accepted=((5, 2),))
    assert counted.survival().reached == pytest.approx((7 / 12, 7 / 12))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "either counts"),
        ({"offered": ((1,),), "accepted": ((1,),), "assumed": (0.5,)}, "either counts"),
        ({"offered": ((1,),), "accepted": ()}, "as many rows"),
        ({"offered": ((1, 1), (1,)), "accepted": ((1, 1), (1,))}, "one length"),
        ({"offered": ((),), "accepted": ((),)}, "one length"),
        ({"offered": ((1,),), "accepted": ((2,),)}, "from 0 to as many"),
        ({"offered": ((1,),), "accepted": ((-1,),)}, "from 0 to as many"),
        ({"offered": ((1, 2),), "accepted": ((1, 1),)}, "must not rise"),
        ({"offered": ((2, 2),), "accepted": ((0, 1),)}, "must not rise"),
        ({"offered": ((0,),), "accepted": ((0,),)}, "no window"),
        ({"assumed": (0.5, 0.6)}, "survival curve"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        Acceptance("large", "small", **counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "models is empty"),
        ({"models": (SMALL, SMALL, LARGE)}, "two candidates are called small"),
        ({"proposers": (replace(HEAD, name="small"),)}, "two candidates are called small"),
        ({"proposers": (replace(HEAD, readers=("smal",)),)}, "did you mean small"),
        ({"proposers": (replace(HEAD, readers=("head",)),)}, "which is no model"),
        ({"acceptances": (COUNTED, COUNTED)}, "stands twice"),
        ({"acceptances": (Acceptance("small", "large", assumed=(0.5,)),)}, "only a larger model"),
        ({"acceptances": (Acceptance("head", "head", assumed=(0.5,)),)}, "only a larger model"),
        ({"acceptances": (Acceptance("large", "tiny", assumed=(0.5,)),)}, "no candidate is called tiny"),
        ({"acceptances": (Acceptance("large", "head", assumed=(0.5,)),)}, "it drafts for small"),
        ({"prompts": ("a",)}, "2 rows for 1 prompts"),
    ],
)
def test_profiles_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PROFILE, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Model("m", 0.0, FLAT), "token_ms of m is 0"),
        (lambda: Model("m", -1.0, FLAT), "token_ms of m is -1"),
        (lambda: Model("m", float("nan"), FLAT), "number"),
        (lambda: Model("m", 1e300, FLAT), "at most 1000000000"),
        (lambda: Model(" ", 1.0, FLAT), "name"),
        (lambda: Model("m", 1.0, FLAT, weight_bytes=-1), "weight_bytes is -1"),
        (lambda: Proposer("p", FLAT, nodes=0), "nodes is 0"),
        (lambda: Proposer("p", FLAT, cache_bytes=cast(int, 1.5)), "whole number"),
    ],
)
def test_candidates_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


DAMAGES = {
    "cut": (lambda values: json.dumps(values)[:40], "no JSON"),
    "empty": (lambda values: "", "is empty"),
    "list": (lambda values: "[1]", "holds no object"),
    "format": (lambda values: json.dumps(values | {"format": 9}), "format 9, this version reads 1"),
    "no format": (lambda values: json.dumps({k: v for k, v in values.items() if k != "format"}), "format None"),
    "missing": (lambda values: json.dumps({k: v for k, v in values.items() if k != "models"}), "missing models"),
    "unknown": (lambda values: json.dumps(values | {"oak": 1}), "unknown option oak"),
    "null": (lambda values: json.dumps(values | {"models": None}), "models"),
    "number": (lambda values: json.dumps(values | {"models": 3}), "models is 3, expected a list"),
    "rows": (lambda values: json.dumps(values | {"models": [1]}), r"models\[0\]: expected a table"),
    "curve": (
        lambda values: json.dumps(values | {"models": [values["models"][0] | {"pass_ms": [1]}, values["models"][1]]}),
        r"models\[0\]: pass_ms: expected a table",
    ),
    "text": (
        lambda values: json.dumps(values | {"models": [values["models"][0] | {"token_ms": "1"}]}),
        r"models\[0\]: token_ms",
    ),
    "nan": (
        lambda values: json.dumps(values | {"models": [values["models"][0] | {"token_ms": float("nan")}]}),
        r"models\[0\]: token_ms is nan",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told_by_name_place_and_remedy(damage, tmp_path):
    make, message = DAMAGES[damage]
    path = tmp_path / "profile.json"
    path.write_text(make({"format": 1, **asdict(PROFILE)}), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        Profile.read(path)
    assert "profile.json" in str(caught.value) and "measure the profile again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"profile\.json"):
        Profile.read(tmp_path / "profile.json")

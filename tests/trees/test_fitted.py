"""`drafting.json`: what was measured of a head comes back as it was written, or is refused by name."""

import json
from dataclasses import replace

import pytest
import torch

from eagle.checkpoints.flat import head_fingerprint, open_head, read_head, save_head, write_fit
from eagle.checkpoints.weights import FIT
from eagle.trees import Acceptance
from eagle.trees.fitted import Expected, HeadFit
from tests.tiny import tiny_head

ACCEPTANCE = Acceptance(sampled=(((0.4, 0.1), (0.8, 0.05)),), placed=(0.9,), confidence=(0.3,))
ROUNDS = (
    Expected(0.0, "eagle", (4, 8), (1.0, 1.5), (1.0, 1.5), (2.0, 3.0)),
    Expected(1.0, "mixed", (8,), (1.4,), (1.3,), (3.5,)),
)


@pytest.fixture
def directory(target, tmp_path):
    """A head with numbers of its own."""
    save_head(tiny_head(target), tmp_path)
    write_fit(tmp_path, HeadFit(ACCEPTANCE, ROUNDS, head_fingerprint(read_head(tmp_path, target)), {"contexts": 3}))
    return tmp_path


def test_a_head_comes_with_its_numbers(target, directory):
    fit = open_head(directory, target).fit
    assert (fit.acceptance, fit.expected, fit.provenance) == (ACCEPTANCE, ROUNDS, {"contexts": 3})
    assert fit.temperatures == (0.0, 1.0) and set(fit.at(1.0)) == {"mixed"}
    assert fit.expected[0].by_size == {4: (1.0, 2.0), 8: (1.5, 3.0)}
    assert fit.expected[1].cautious == {8: (pytest.approx(1.35), 3.5)}
    assert open_head(directory, target, torch.bfloat16).fit == fit  # whatever it is cast to


def test_a_head_without_numbers_has_none(target, tmp_path):
    save_head(tiny_head(target), tmp_path)
    assert open_head(tmp_path, target).fit is None


def test_numbers_of_other_weights_are_left_out_with_a_warning(target, directory):
    """A file copied along with a head that was then trained on would size its trees by the old one."""
    save_head(tiny_head(target, seed=1), directory)
    with pytest.warns(UserWarning, match="measured with other weights"):
        assert open_head(directory, target).fit is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: "{", "drafting.json"),
        (lambda values: json.dumps([1]), "drafting.json"),
        (lambda values: json.dumps(values | {"format": 9}), "format is 9, this version reads 1"),
        (lambda values: json.dumps({k: v for k, v in values.items() if k != "expected"}), "'expected'"),
        (lambda values: json.dumps(values | {"acceptance": {"oak": 1}}), "oak"),
        (
            lambda values: json.dumps(values | {"acceptance": {"placed": [-1]}}),
            "placed is -1, it must be larger",
        ),
        (lambda values: json.dumps(values | {"expected": [{**values["expected"][0], "tau": [1]}]}), "one length"),
        (lambda values: json.dumps(values | {"expected": [{**values["expected"][0], "tau": ["1", 2]}]}), "holds '1'"),
        (lambda values: json.dumps(values | {"expected": [{**values["expected"][0], "num_nodes": [1.5, 2]}]}), "whole"),
        (lambda values: json.dumps(values | {"expected": [{**values["expected"][0], "temperature": None}]}), "None"),
        (lambda values: json.dumps(values | {"expected": 5}), "another type"),
        (lambda values: json.dumps(values | {"acceptance": {"placed": [float("nan")]}}), "nan, it must be a number"),
        (lambda values: json.dumps(values | {"acceptance": {"confidence": ["x"]}}), "'x', it must be a number"),
        (lambda values: "version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (lambda values: "", "is empty"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_remedy(target, directory, damage, message):
    path = directory / FIT
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message) as refusal:
        open_head(directory, target)
    assert str(path) in str(refusal.value) and "eagle-hsd trees fit" in str(refusal.value)


def test_numbers_belong_to_what_the_head_computes_too(target):
    """The same weights with another flag draft something else."""
    head = tiny_head(target)
    before = head_fingerprint(head)
    head.config = replace(head.config, norm_output=True)
    assert head_fingerprint(head) != before

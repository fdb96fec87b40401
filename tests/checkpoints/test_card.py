"""What a trained head says of itself."""

import json

import pytest

from eagle.checkpoints.card import read_length
from eagle.checkpoints.conversion import convert
from eagle.checkpoints.flat import open_head
from tests.training import runs


def test_a_trained_head_carries_its_length_and_a_card(tmp_path):
    """A head fades beyond the lengths it was trained on; which these were stood in a run's files only."""
    on = runs.setting()
    longest = max(len(example) for example in on.examples)
    runs.trained_head(runs.config(tmp_path, num_epochs=1), on)
    for name in ("best", "last"):
        assert open_head(tmp_path / name, on.target).trained_length == longest
        card = (tmp_path / name / "README.md").read_text()
        assert f"# EAGLE-3 draft head for {on.target.name}" in card and f"at most {longest} tokens" in card
    convert(tmp_path / "best", tmp_path / "flat", "flat", on.target)
    assert open_head(tmp_path / "flat", on.target).trained_length == longest


def test_a_second_stage_on_shorter_text_keeps_the_longer_length(tmp_path):
    on = runs.setting()
    runs.trained_head(runs.config(tmp_path / "first", num_epochs=1), on)
    short = runs.setting([runs.example(name, 12) for name in range(40)])
    second = runs.config(tmp_path / "second", num_epochs=1, initial_head=str(tmp_path / "first" / "last"))
    runs.trained_head(second, short)
    lengths = [open_head(tmp_path / name / "last").trained_length for name in ("first", "second")]
    assert lengths[0] == lengths[1] == max(len(example) for example in on.examples)


@pytest.mark.parametrize("value", [None, 0, -3, "long", 1.5, True, []])
def test_a_length_that_is_none_is_left_out(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps({"trained_length": value}))
    assert read_length(tmp_path) is None

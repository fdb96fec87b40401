"""The worked example of the README, run as written."""

from __future__ import annotations

import doctest
from pathlib import Path

import hsd_verify


def test_the_worked_example_gives_the_numbers_it_shows():
    results = doctest.testfile(str(Path(hsd_verify.__file__).with_name("README.md")), module_relative=False)
    assert results.attempted >= 6
    assert results.failed == 0

"""Growth as an accelerator has it: slots that do not exist are masked and not left out. The same trees come of it.

On the CPU's tensors here, every branch listed as in `test_lossless.py`; what is drawn for no slot is no choice.
"""

from collections import defaultdict

import pytest
import torch

from eagle.sampling import Sampling
from eagle.trees.scaffold import EMPTY, Scaffold
from hsd_verify import DraftTree
from tests.trees.test_lossless import EXACT, POLICIES, SAMPLINGS, SHALLOW, VOCABULARIES
from tests.trees.toy import policy_error, toy_trees

IDS, SIZE = [0, 2, 3], 4  # the draft knows three of four tokens
SCAFFOLDS = {
    "none": EMPTY,
    "placed-anyway": Scaffold((2, 0), (0.6, 0.5)),
    "beside": Scaffold((3, 0), (0.5, 0.5)),
    "foreign": Scaffold((1, 1, 2), (0.3, 0.6, 0.5)),
}
DRAWN = [name for name in POLICIES if not name.startswith("eagle")]
Drafted = dict[tuple, tuple[float, torch.Tensor | None]]


@pytest.fixture
def masked(monkeypatch):
    monkeypatch.setattr("eagle.trees.growth.leaves_out", lambda tensor: False)


def listed(name: str, sampling: Sampling, scaffold: Scaffold) -> Drafted:
    """Every tree with its probability and its proposal laws."""
    probs: dict[tuple, float] = defaultdict(float)
    laws: dict[tuple, torch.Tensor | None] = {}
    for prob, tree in toy_trees(POLICIES[name], sampling, IDS, SIZE, 2, scaffold):
        probs[key(tree)] += prob
        laws[key(tree)] = tree.draft_probs
    return {tree: (prob, laws[tree]) for tree, prob in probs.items()}


def key(tree: DraftTree) -> tuple:
    return tree.parent_list, tree.token_list, tree.sampled_list


@pytest.mark.parametrize("scaffold", SCAFFOLDS)
@pytest.mark.parametrize("sampling", ["temperature-0.7", "top-p"])
@pytest.mark.parametrize("name", DRAWN)
def test_the_same_trees_with_the_same_laws(name, sampling, scaffold, request):
    expected = listed(name, SAMPLINGS[sampling], SCAFFOLDS[scaffold])
    request.getfixturevalue("masked")
    found = listed(name, SAMPLINGS[sampling], SCAFFOLDS[scaffold])
    assert found.keys() == expected.keys()
    for tree, (prob, laws) in found.items():
        assert abs(prob - expected[tree][0]) < EXACT
        assert (laws is None) == (expected[tree][1] is None)
        if laws is not None:
            torch.testing.assert_close(laws, expected[tree][1], atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", DRAWN)
def test_and_so_it_is_lossless(name, masked):
    depth = 2 if name in SHALLOW else 3
    assert policy_error(POLICIES[name], SAMPLINGS["temperature-1"], *VOCABULARIES["3-of-4"], depth) < EXACT
    assert policy_error(POLICIES[name], SAMPLINGS["top-k"], IDS, SIZE, 2, SCAFFOLDS["beside"]) < EXACT

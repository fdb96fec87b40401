"""Which trees a verifier decides: refused before anything is loaded, by what either of the two says itself."""

import pytest

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.drafters.lookup import LookupDrafter
from eagle.engine.target import Target
from eagle.judging import COUPLED, VERIFIERS
from eagle.pairing import check_pair
from eagle.sampling import Sampling
from eagle.trees import POLICIES, parse_policy
from tests import tiny_text
from tests.tiny import tiny_head

EVERY_TREE = ("hsd", "walk", "tokenwise", COUPLED)
FITS = [(tree, verifier) for tree in POLICIES if tree != "coupled" for verifier in EVERY_TREE]
FITS += [("coupled", COUPLED), ("chain", "block"), ("chain", "hsd_capped"), ("iid", "hsd_multidraft")]
FITS += [("without_replacement", "traversal"), ("sampled", "traversal"), ("chain:depth=1", "naive")]
PLACED = "needs sampled nodes, node 1 was placed: verifiers 'hsd', 'tokenwise' and 'walk' verify every tree"
NOISE = "reads the noise that verifier 'coupled' shares with it.*choose --verifier coupled, or another tree"
REFUSED = [("coupled", verifier, NOISE) for verifier in VERIFIERS if verifier != COUPLED]
REFUSED += [("eagle:top_k=1", v, PLACED) for v in ("block", "traversal", "hsd_capped", "hsd_multidraft")]
REFUSED += [
    ("auto", "block", "verifies one path, node"),
    ("budgeted", "traversal", "needs sampled nodes"),
    ("eagle", "naive", "naive"),
    ("iid", "block", "verifies one path"),
    ("iid", "traversal", "without replacement"),
    ("without_replacement:branching=1+1+2", "block", "verifies one path, node 2 has 2 children"),
    ("chain", "naive", "resamples outside the tree"),
    ("chain", "greedy", "use verifier 'walk' or 'hsd' above temperature 0"),
]


@pytest.mark.parametrize(("tree", "verifier"), FITS)
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_pairs_that_decode_are_taken(tree, verifier, temperature):
    check_pair(parse_policy(tree), verifier, Sampling(temperature, top_k=5, top_p=0.9))


@pytest.mark.parametrize("tree", POLICIES)
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_at_temperature_zero_all_verifiers_are_one(tree, verifier):
    check_pair(parse_policy(tree), verifier, Sampling())


@pytest.mark.parametrize(("tree", "verifier", "why"), REFUSED)
def test_others_are_refused_with_value_and_remedy(tree, verifier, why):
    with pytest.raises(ValueError, match=f"verifier '{verifier}' does not fit this tree at temperature 1: .*{why}"):
        check_pair(parse_policy(tree), verifier, Sampling(1.0))


@pytest.mark.parametrize("tree", POLICIES)
@pytest.mark.parametrize("verifier", EVERY_TREE)
def test_a_lookup_fits_what_takes_every_tree(tree, verifier):
    for temperature in (0.0, 1.0):
        if tree != "coupled" or verifier == COUPLED or not temperature:
            check_pair(parse_policy(tree), verifier, Sampling(temperature), lookup=True)


@pytest.mark.parametrize(
    ("tree", "verifier"), [("chain", "block"), ("iid", "hsd_multidraft"), ("without_replacement", "traversal")]
)
def test_what_needs_drawn_nodes_alone_is_refused_beside_a_lookup(tree, verifier):
    """It would have failed in the first round that finds a match."""
    check_pair(parse_policy(tree), verifier, Sampling(1.0))
    with pytest.raises(
        ValueError, match=f"verifier '{verifier}' does not fit this tree beside a lookup at temperature 1"
    ):
        check_pair(parse_policy(tree), verifier, Sampling(1.0), lookup=True)


def test_a_verifier_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"unknown verifier 'fast': choose one of .*coupled"):
        check_pair(parse_policy("eagle"), "fast", Sampling(1.0))


def test_a_chat_refuses_a_pair_when_it_is_made():
    target = Target(tiny_text.target(), tiny_text.tokenizer())
    with pytest.raises(ValueError, match="a lookup stands beside a head, and none is given"):
        Chat(target, lookup=LookupDrafter())
    options = DecodeOptions(Sampling(0.8), 8, "hsd")
    with pytest.raises(ValueError, match=r"verifier 'hsd' does not fit this tree at temperature 0\.8: tree 'coupled'"):
        Chat(target, tiny_head(target), parse_policy("coupled"), options)
    assert Chat(target, None, parse_policy("coupled"), options).ask("Hi")  # nothing is drafted without a head


def test_what_reads_the_text_or_names_tokens_fits_where_the_rest_does():
    """The toy has no text and few tokens: a penalty failed there, a bias on token 40,000 did too."""
    shaped = Sampling(0.8, repetition_penalty=1.2, logit_bias={40_000: -1.0}, processors=(lambda ids, scores: scores,))
    check_pair(parse_policy("auto"), COUPLED, shaped)
    with pytest.raises(ValueError, match=r"verifier 'block' does not fit this tree at temperature 0\.8"):
        check_pair(parse_policy("eagle"), "block", shaped)

"""A head's compiled passes against its eager ones, by kind of head; trees, texts; what is refused."""

from typing import Any

import pytest
import torch

from eagle.compiled import head_passes
from eagle.compiled.graph import MOST_NODES
from eagle.compiled.head_passes import compile_head
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.reader import HeadReader
from eagle.engine.masks import ancestor_matrix, depths, tree_mask
from eagle.engine.suitability import spread_apart
from eagle.kernels.compiler import kernels
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree
from evaluation.selfcheck.tiny import random_head
from tests.tiny import HEAD_SIZES, random_ids, tiny_head, tiny_target, tokens_of

PARENTS = (-1, 0, 0, 1, 2, 2, 5, 0)
# float32 sums of a few hundred terms in another order, of states and logits up to some tens
TOLERANCE = 2e-4
KINDS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "EAGLE-3.1": {"norm_output": True, "fc_norm": True},
    "speculators": {"norm_before_residual": True, "norm_before_fc": True},
    "every head its own": {"num_key_value_heads": 4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
}


def kind_of_head(changes: dict, dtype: torch.dtype = torch.float32) -> DraftHead:
    target = tiny_target()
    vocabulary = tiny_head(target).vocabulary
    head = random_head(target, vocabulary, seeded(0), **{**HEAD_SIZES, **changes}).to(dtype)
    for parameter in head.parameters():
        parameter.data.mul_(3)
    return head


def embed(ids: torch.Tensor) -> torch.Tensor:
    return torch.randn(97, 32, generator=seeded(5))[ids]


def read_some(head: DraftHead, num_before: int, parents: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """States and logits of a tree's entries behind a prefix that is read in one pass, then token by token."""
    dtype, nodes = head.fc.weight.dtype, len(parents)
    ids, hidden = torch.tensor(random_ids(num_before + nodes)), torch.randn(num_before + nodes, 32, generator=seeded(1))
    reader, places, hidden = HeadReader(head, embed), torch.arange(num_before), hidden.to(dtype)
    causal, first = torch.ones(num_before, num_before).tril().bool(), num_before - 2
    reader.read(hidden[:first], ids[:first], places[:first], tree_mask(causal[:first, :first], 0, dtype))
    for place in places[first:].split(1):
        reader.read(hidden[place], ids[place], place, None)
    ancestors = ancestor_matrix(parents)
    mask = tree_mask(ancestors, num_before, dtype)
    states = reader.read(hidden[num_before:], ids[num_before:], num_before + depths(ancestors), mask)
    assert reader.length == num_before + nodes
    return states, reader.logits(states)


@pytest.fixture(scope="module", params=KINDS, ids=str)
def heads(request) -> tuple[DraftHead, DraftHead]:
    """The same random head, eager and compiled."""
    pair = kind_of_head(KINDS[request.param]), kind_of_head(KINDS[request.param])
    compile_head(pair[1], True, bits=None)
    return pair


@torch.inference_mode()
@pytest.mark.parametrize(
    "parents", [PARENTS, (-1,), (-1, 0), (-1, *[0] * (MOST_NODES - 1)), (-1, *[0] * MOST_NODES)], ids=len
)
@pytest.mark.parametrize("num_before", [5, 300])  # the second beyond the first buffers
def test_entries_get_the_eager_states_and_logits(heads, num_before, parents):
    """More entries than a compiled pass takes are read eagerly, with the same cache."""
    eager, compiled = (read_some(head, num_before, parents) for head in heads)
    for got, wanted in zip(compiled, eager, strict=True):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("bits", [None, 8])
def test_in_bfloat16_an_entry_does_not_depend_on_those_beside_it(bits):
    if not kernels().has_product():
        pytest.skip("torch's products are summed in an order that depends on the number of rows")
    head = kind_of_head({}, torch.bfloat16)
    compile_head(head, True, bits)
    states, logits = read_some(head, 20, PARENTS)
    alone = read_some(head, 20, PARENTS[:1])
    assert torch.equal(alone[0][0], states[0]) and torch.equal(alone[1][0], logits[0])


@torch.inference_mode()
def test_in_8_bits_a_head_proposes_nearly_the_same_and_keeps_its_own_weights():
    if not kernels().has_low_bit():
        pytest.skip("this processor multiplies no bytes: weights stay as they are")
    head = kind_of_head({})
    before, wanted = {name: weight.clone() for name, weight in head.state_dict().items()}, read_some(head, 20, PARENTS)
    compile_head(head, True)
    assert all(torch.equal(weight, before[name]) for name, weight in head.state_dict().items())
    for got, eager in zip(read_some(head, 20, PARENTS), wanted, strict=True):
        assert 0 < spread_apart(got, eager) < 0.05  # a rounding to 8 bits is 0.4 % of the largest number of a block


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=str)
def test_same_seed_same_text_and_greedy_and_coupled_ones_are_plain_decodings(sampling, bits):
    """Whatever the head computes; with its own weights the trees are those of the eager head."""
    target, prompt = tiny_target(), random_ids(9)
    found = []
    for is_compiled in (False, True, True):
        head = tiny_head(target)
        if is_compiled:
            compile_head(head, True, bits)
        for verifier in ("coupled", "hsd"):
            drafter = EagleDrafter(head, target.embed, AutoTree(12))
            steps = list(Session(target, drafter).decode(prompt, DecodeOptions(sampling, 40, verifier), seeded(3)))
            found.append((tokens_of(steps), [step.num_accepted for step in steps]))
    plain = tokens_of(autoregressive(target, prompt, DecodeOptions(sampling, 40, "coupled"), seeded(3)))
    assert found[0][0] == found[2][0] == plain
    assert found[2:4] == found[4:]
    assert bits or found[:2] == found[2:4]
    assert sum(found[2][1]) > 0


def test_what_cannot_be_compiled_is_told_or_refused(monkeypatch):
    half, notices = kind_of_head({}, torch.float16), []
    with pytest.raises(
        ValueError, match=r"the draft head cannot be compiled: its numbers are float16.* leave --compile"
    ):
        compile_head(half, True)
    compile_head(half, False, notice=notices.append)
    assert half.small_read is None and notices[0].endswith("its passes stay eager")
    monkeypatch.setattr(head_passes, "lowered", lambda *_arguments: lambda *inputs: [torch.randn(len(inputs[0]), 32)])
    head = kind_of_head({})
    with pytest.raises(ValueError, match="its compiled states differ by"):
        compile_head(head, True)
    assert head.small_read is None


def test_gradients_are_taken_through_the_eager_passes():
    head = kind_of_head({})
    compile_head(head, True)
    assert not head.small_read.takes(torch.zeros(2, 32))
    with torch.inference_mode():
        assert head.small_read.takes(torch.zeros(2, 32)) and not head.small_read.takes(torch.zeros(2, 32).bfloat16())

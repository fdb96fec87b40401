"""Recorded passes against eager ones. The recording is a stand-in: it keeps operations and places, and replays those.

What a CUDA graph would freeze is frozen here too: numbers that were in Python's hands while it was recorded, and the
memory of whatever was no input.
"""

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from eagle.compiled import passes
from eagle.compiled.head_passes import compare as compare_head
from eagle.compiled.passes import compile_passes
from eagle.compiled.recorded_head import RecordedHead
from eagle.compiled.recorded_passes import RecordedPass
from eagle.compiled.replays import Places, Work, bucket, columns
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.cache import KeyValueCache
from eagle.engine.joint import TreeOf, score_together
from eagle.engine.masks import ancestor_matrix
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree, EagleTree
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

PARENTS = [-1, 0, 0, 1, 1, 2, 3]
# float32 sums of a few hundred terms in another order, as between two eager passes (`tests/engine/test_target.py`)
TOLERANCE = 5e-5
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped": ("llama", {}),
    "windows and full": ("gemma3_text", {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "window everywhere": ("mistral", {"sliding_window": 8}),
    "softcap": ("gemma2", {"attention": "eager", "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
}


class Frozen:
    """A `Replay` of the very operations of one run, over the very same memory."""

    made = 0

    def __init__(self, work: Work, inputs: Sequence[Tensor]):
        self._inputs = [one.clone() for one in inputs]
        with torch.no_grad():
            self._replay = make_fx(lambda *own: list(work(*own)))(*self._inputs)
            self._outputs = [output.clone() for output in self._replay(*self._inputs)]
        Frozen.made += 1

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        with torch.no_grad():
            for own, output in zip(self._outputs, self._replay(*self._inputs), strict=True):
                own.copy_(output)
        return [output.clone() for output in self._outputs]


def recorded(family: str = "llama", changes: dict[str, Any] | None = None) -> Target:
    target = tiny_target(family, **(changes or {}))
    target.small_pass = RecordedPass(target, True, Frozen)
    return target


def recorded_head(target: Target) -> DraftHead:
    head = tiny_head(target)
    compare_head(head, lambda: RecordedHead(head, Frozen), None)
    return head


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def pair(request) -> tuple[Target, Target]:
    return tiny_target(FAMILIES[request.param][0], **FAMILIES[request.param][1]), recorded(*FAMILIES[request.param])


def prefilled(target: Target, num_tokens: int = 20) -> KeyValueCache:
    cache = target.new_cache()
    target.prefill(torch.tensor(random_ids(num_tokens)), cache)
    assert isinstance(cache, KeyValueCache)
    return cache


def test_trees_of_any_size_behind_any_text_get_the_eager_numbers(pair):
    """One recording serves many of them: those of 5 to 8 nodes, and 37 to 249 entries."""
    eager, replayed = pair
    passes.compare(eager, RecordedPass(eager, True, Frozen))
    before = Frozen.made
    caches = prefilled(replayed), prefilled(eager)
    for number, parents in enumerate((PARENTS, [-1, 0, 1, 2, 3], [-1] + [0] * 7, PARENTS, [-1], [-1] + [0] * 40)):
        tokens = torch.tensor(random_ids(len(parents), seed=number))
        got, wanted = (
            one.forward_tree(tokens, ancestor_matrix(parents), cache)
            for one, cache in zip((replayed, eager), caches, strict=True)
        )
        for mine, own in ((got.logits, wanted.logits), (got.features, wanted.features)):
            torch.testing.assert_close(mine, own, atol=TOLERANCE, rtol=0)
        path = [0, 1] if len(parents) > 1 else [0]
        for cache in caches:
            cache.keep(torch.tensor(path))
    assert Frozen.made - before == 3  # of 8, 1 and 64 nodes
    assert caches[0].length == caches[1].length


@pytest.mark.parametrize(
    ("sampling", "verifier"), [(Sampling(), "coupled"), (Sampling(1.0), "hsd")], ids=["greedy", "warm"]
)
def test_texts_are_those_without_recordings(sampling, verifier):
    """Longer than a block of columns, so that recordings change on the way; plain decoding is recorded too."""
    family, changes = FAMILIES["windows and full"]
    eager, replayed = tiny_target(family, **changes), recorded(family, changes)
    head, prompt = recorded_head(replayed), random_ids(236)
    options = DecodeOptions(sampling, 18, verifier, ignore_end=True)
    texts = []
    for target, own in ((eager, tiny_head(eager)), (replayed, head)):
        drafter = EagleDrafter(own, target.embed, EagleTree(8, depth=3, top_k=4) if sampling.greedy else AutoTree(8))
        texts.append(tokens_of(Session(target, drafter).decode(prompt, options, seeded(3))))
    assert texts[0] == texts[1]
    plain = [tokens_of(autoregressive(target, prompt, options, seeded(3))) for target in (eager, replayed)]
    assert plain[0] == plain[1] and (not sampling.greedy or plain[0] == texts[0])


def test_the_next_session_goes_on_with_what_was_recorded():
    target = recorded()
    head, options = recorded_head(target), DecodeOptions(max_new_tokens=24, ignore_end=True)

    def write(seed: int) -> list[int]:
        drafter = EagleDrafter(head, target.embed, AutoTree(8))
        return tokens_of(Session(target, drafter).decode(random_ids(9, seed), options))

    first = write(0)
    gc.collect()
    before = Frozen.made
    found = [write(0)]
    assert found == [first] and Frozen.made == before
    found += [write(seed) for seed in (1, 2)]
    fresh = tiny_target()
    assert found == [tokens_of(autoregressive(fresh, random_ids(9, seed), options)) for seed in (0, 1, 2)]


def test_sessions_that_take_turns_keep_their_places():
    target, options = recorded(), DecodeOptions(max_new_tokens=12, ignore_end=True)
    head = recorded_head(target)
    prompts = [random_ids(9, seed) for seed in range(2)]
    answers = [
        Session(target, EagleDrafter(head, target.embed, AutoTree(8))).decode(prompt, options) for prompt in prompts
    ]
    texts: list[list[int]] = [[] for _ in answers]
    for _ in range(12):
        for text, answer in zip(texts, answers, strict=True):
            text += next(answer).tokens if len(text) < 12 else ()
    fresh = tiny_target()
    assert texts == [tokens_of(autoregressive(fresh, prompt, options)) for prompt in prompts]


def test_a_cache_that_outgrows_its_place_takes_its_entries_along():
    target, places = tiny_target(), Places(Frozen)
    cache = prefilled(target, 100)
    first = places.of(cache.layers, 1)
    assert first.capacity == 512 and places.of(cache.layers, 400) is first
    keys = cache.layers[2].keys[:, :, :100].clone()
    second = places.of(cache.layers, 500)
    assert second.capacity == 1024 and second.holds(cache.layers) and not first.holds(cache.layers)
    assert torch.equal(cache.layers[2].keys[:, :, :100], keys)
    other = prefilled(target, 30)
    assert places.of(other.layers, 1) is first  # it is free
    for layer in cache.layers:  # an eager pass with more tokens gives the cache buffers of its own
        layer.reserve(1500)
    assert not second.holds(cache.layers) and places.of(cache.layers, 1) is not second
    del cache, other
    gc.collect()
    assert len({id(place) for place in places._free}) == len(places._free) == 2


def test_what_a_pass_does_not_take_stays_eager(monkeypatch):
    target = recorded()
    head = recorded_head(target)
    assert not target.small_pass.takes(65, prefilled(target), torch.float32)
    assert not target.small_pass.takes(3, target.new_cache(), torch.float32)
    assert not head.small_read.takes(torch.zeros(3, 32))  # gradients are taken through the eager passes
    ids, ancestors = torch.tensor(random_ids(len(PARENTS))), ancestor_matrix(PARENTS)
    monkeypatch.setattr(RecordedPass, "score", None)  # rows of a batch share an eager pass
    outputs = score_together(target, [TreeOf(ids, ancestors, prefilled(target, length)) for length in (20, 7)])
    assert [len(output.logits) for output in outputs] == [len(PARENTS)] * 2


def test_sizes_are_few():
    assert [bucket(number, 64) for number in (1, 2, 3, 8, 9, 33, 64)] == [1, 2, 4, 8, 16, 64, 64]
    assert [columns(length, 1024) for length in (1, 256, 257, 1000)] == [256, 256, 512, 1024]
    assert columns(700, 700) == 700


def test_a_recording_that_is_wrong_is_found_out():
    class Stuck(Frozen):
        """Never reads what it is given anew."""

        def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
            return [output.clone() for output in self._outputs]

    target = tiny_target()
    with pytest.raises(ValueError, match="its compiled logits differ by"):
        passes.compare(target, RecordedPass(target, True, Stuck))
    head = tiny_head(target)
    with pytest.raises(ValueError, match="its compiled states differ by"):
        compare_head(head, lambda: RecordedHead(head, Stuck), None)


def test_another_accelerator_is_refused_by_name(monkeypatch):
    target = tiny_target()
    monkeypatch.setattr(Target, "device", torch.device("meta"))
    with pytest.raises(ValueError, match="compiled passes are for one CPU or CUDA device, the model is on meta"):
        compile_passes(target, "on")

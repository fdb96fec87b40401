"""What is done to logits before they become a law, against the libraries that users know it from."""

from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from eagle.context import Context
from eagle.sampling import Sampling, seeded
from hsd_verify import DraftTree

V = 40
IDS = torch.randint(V, (3, 12), generator=seeded(3))  # three texts
LOGITS = 4 * torch.randn(3, V, generator=seeded(4))
CONTEXTS = [Context(ids, num_prompt=5) for ids in IDS]


def shaped(**fields) -> torch.Tensor:
    return Sampling(1.0, **fields).shaped(LOGITS, CONTEXTS)


def test_the_repetition_penalty_is_transformers():
    """Prompt and answer count; a token that stands twice is penalised once."""
    assert torch.equal(shaped(repetition_penalty=1.3), RepetitionPenaltyLogitsProcessor(1.3)(IDS, LOGITS.clone()))


def test_bad_words_are_transformers():
    words = [[7], [int(IDS[0, -1]), 9], [int(IDS[1, -2]), int(IDS[1, -1]), 4], [2, 3]]
    expected = NoBadWordsLogitsProcessor(words)(IDS, LOGITS.clone())
    assert torch.equal(shaped(bad_words=words), expected)
    assert int(expected.isinf().sum()) >= 5


def test_the_bias_is_transformers_sequence_bias_of_single_tokens():
    bias = {3: 2.5, 17: -4.0, 39: -torch.inf}
    expected = SequenceBiasLogitsProcessor([[[token], number] for token, number in bias.items()])(IDS, LOGITS.clone())
    assert torch.equal(shaped(logit_bias=bias), expected)


@pytest.mark.parametrize(("presence", "frequency"), [(0.7, 0.0), (0.0, 0.4), (-0.5, 1.1)])
def test_presence_and_frequency_are_openais(presence, frequency):
    """`mu[j] - c[j] * frequency - (c[j] > 0) * presence`, c counted over the answer; the prompt does not count."""
    expected = LOGITS.double()
    for row, ids in enumerate(IDS.tolist()):
        for token in range(V):
            count = ids[5:].count(token)
            expected[row, token] -= count * frequency + (count > 0) * presence
    found = shaped(presence_penalty=presence, frequency_penalty=frequency)
    torch.testing.assert_close(found, expected.float())


def test_min_p_is_transformers():
    for temperature, min_p in ((1.0, 0.1), (0.6, 0.3), (2.0, 0.02)):
        expected = MinPLogitsWarper(min_p)(None, TemperatureLogitsWarper(temperature)(None, LOGITS)).softmax(-1)
        found = Sampling(temperature, min_p=min_p)
        torch.testing.assert_close(found.law(LOGITS), expected)
        torch.testing.assert_close(found.scores(LOGITS).softmax(-1), expected)
        assert int((expected == 0).sum()) > 0
    assert torch.equal(Sampling(1.0, min_p=1.0).law(LOGITS).argmax(-1), LOGITS.argmax(-1))


def test_the_order_is_vllms():
    """Bad words, bias, penalties, temperature, min-p, top-k, top-p: transformers' own, one after the other."""
    words = [[7], [int(IDS[0, -1]), 9]]
    steps = LogitsProcessorList(
        [
            NoBadWordsLogitsProcessor(words),
            SequenceBiasLogitsProcessor([[[5], 3.0]]),
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.7),
            MinPLogitsWarper(0.05),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.9),
        ]
    )
    ids: Any = IDS
    fields: dict[str, Any] = {"min_p": 0.05, "top_k": 12, "top_p": 0.9, "bad_words": words, "logit_bias": {5: 3.0}}
    sampling = Sampling(0.7, repetition_penalty=1.3, **fields)
    torch.testing.assert_close(sampling.laws(LOGITS, CONTEXTS), steps(ids, LOGITS.clone()).softmax(-1))


def test_any_logits_processor_of_ids_and_scores_serves():
    processor = NoRepeatNGramLogitsProcessor(2)
    texts = [Context(torch.cat([ids, ids[:1]]), 5) for ids in IDS]
    expected = [processor(text.ids[None], LOGITS[row][None].clone())[0] for row, text in enumerate(texts)]
    found = Sampling(1.0, processors=(processor,)).shaped(LOGITS, texts)
    assert torch.equal(found, torch.stack(expected)) and bool(found.isinf().any())


def test_a_processor_that_writes_into_its_scores_leaves_the_logits():
    def zero(ids, scores):
        return scores.zero_()

    before = LOGITS.clone()
    assert not shaped(processors=[zero]).any() and torch.equal(LOGITS, before)
    Sampling(bad_words=[[1]], repetition_penalty=2.0, logit_bias={2: 1.0}).laws(LOGITS, CONTEXTS)
    assert torch.equal(LOGITS, before)


def test_what_is_off_costs_nothing():
    """The very tensor comes back, in its own dtype, and no context is asked for."""
    half = LOGITS.bfloat16()
    assert Sampling(0.7, top_k=3, min_p=0.1).shaped(half) is half
    assert not Sampling(0.7).shapes and Sampling(logit_bias={1: 1.0}).shapes
    assert Sampling(bad_words=[[1]], logit_bias={2: 1.0}).reads_text is False


def test_what_a_draft_draws_by_names_no_token():
    full = Sampling(0.7, 5, 0.9, 0.1, repetition_penalty=1.2, logit_bias={3: 1.0}, bad_words=[[1]])
    assert full.for_drafts == Sampling(0.7, 5, 0.9, 0.1)
    assert hash(full) == hash(
        Sampling(0.7, 5, 0.9, 0.1, repetition_penalty=1.2, logit_bias=[(3, 1)], bad_words=((1,),))
    )


def test_the_text_at_a_node_is_prompt_and_path():
    tree = DraftTree(torch.tensor([-1, 0, 1, 1, 0]), torch.tensor([9, 5, 6, 7, 8]))
    texts = Context.of([1, 2, 9], 2).after(tree, [0, 2, 3, 4])
    assert [text.listed for text in texts] == [[1, 2, 9], [1, 2, 9, 5, 6], [1, 2, 9, 5, 7], [1, 2, 9, 8]]
    assert [text.answer.tolist() for text in texts][1] == [9, 5, 6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_p": 1.5}, "min_p is 1.5, it must lie in"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, it must be larger than 0"),
        ({"presence_penalty": 3}, r"presence_penalty is 3, it must lie in \[-2, 2\]"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias of token 1 is inf"),
        ({"logit_bias": "abc"}, "logit_bias is 'abc', it must map token ids"),
        ({"bad_words": ["word"]}, "bad_words is .*sequences of token ids.*bad_word_ids"),
        ({"bad_words": [[]]}, "a word of no tokens"),
        ({"processors": (3,)}, "processor 3 cannot be called"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(1.0, **fields)


def test_ids_beyond_the_vocabulary_are_named():
    with pytest.raises(ValueError, match=r"logit_bias names token 40, ids of this model lie in 0\.\.39"):
        shaped(logit_bias={40: 1.0})
    with pytest.raises(ValueError, match="bad_words names token 99"):
        shaped(bad_words=[[99]])


def test_processors_that_remember_are_refused():
    watermark = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=3,
        keys=[1, 2],
        sampling_table_size=16,
        sampling_table_seed=0,
        context_history_size=8,
        device=torch.device("cpu"),
    )
    with pytest.raises(ValueError, match=r"SynthIDTextWatermark.*is no function of \(ids, scores\): it remembers"):
        Sampling(1.0, processors=(watermark,))

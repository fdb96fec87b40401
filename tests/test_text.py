"""Streaming text and stop strings."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from eagle.text import Detokenizer, StopStrings, stop_ids
from tests import tiny_text

TEXTS = [
    "Why is the sky blue? It's Rayleigh scattering.",
    "naïve café, 日本語のテキスト, 🙂🚀, ﷽",
    "def f(x):\n\n    return  x + 1\n\n\n",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_add_up_to_the_text_of_the_whole(smollm2, text):
    tokenizer = smollm2.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids, skip_special_tokens=True)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)


def test_an_unfinished_character_is_shown_at_the_end_and_not_before(smollm2):
    ids = smollm2.tokenizer("🙂", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(smollm2.tokenizer)
    assert len(ids) > 1 and detokenizer.push(ids[0]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "found"),
    [
        (["END"], ["one ", "E", "ND two"], "one ", True),
        (["END"], ["one E", "x"], "one Ex", False),
        (["b", "abc"], ["xab", "c"], "xa", True),  # the earliest start wins
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb", True),
        ([], ["a", "b"], "ab", False),
    ],
)
def test_text_ends_before_the_first_stop_string(stops, pieces, shown, found):
    filter_ = StopStrings(stops)
    out = "".join(filter_.push(piece) for piece in pieces)
    assert filter_.found == found
    assert out + ("" if found else filter_.flush()) == shown


def test_what_may_become_a_stop_string_is_held_back():
    filter_ = StopStrings(["Human:"])
    assert [filter_.push("ok Hum"), filter_.push("id")] == ["ok ", "Humid"]


def test_empty_stop_strings_are_refused():
    with pytest.raises(ValueError, match="a stop string is empty"):
        StopStrings([""])


@pytest.mark.parametrize("count", [1, 5, 200])
def test_bytes_that_are_no_text_are_not_held_back_for_ever(count):
    """One broken byte held everything back, and every token decoded all of it again."""
    tokenizer = tiny_text.tokenizer()
    broken = tokenizer.convert_tokens_to_ids("\u0122")  # the byte-level letter of a lone continuation byte
    ids = [*tokenizer("ok ")["input_ids"], *[broken] * count, *tokenizer("go 🙂")["input_ids"]]
    detokenizer, lengths = Detokenizer(tokenizer), []
    decode = detokenizer._decode
    detokenizer._decode = lambda ids: lengths.append(len(ids)) or decode(ids)  # type: ignore[method-assign]
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids, skip_special_tokens=True)
    assert max(lengths) <= 10 and max(map(len, pieces)) <= 4


def test_a_special_token_between_words_leaves_their_space():
    """The window began behind the special token, where a metaspace decoder takes the first space away."""
    raw = Tokenizer(models.WordLevel({"\u2581a": 0, "\u2581b": 1, "?": 2}, unk_token="?"))
    raw.decoder = decoders.Metaspace()
    raw.add_special_tokens([AddedToken("<s>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=["<s>"])
    for ids in ([0, 3, 1], [3, 0, 3, 3, 1, 0], [0, 1, 3]):
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push(token) for token in ids]
        assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_stop_string_that_is_a_special_token_is_an_id():
    """It is never part of the text, so the string could not match."""
    assert stop_ids(tiny_text.tokenizer(), ["<|im_start|>", "a", "stop", ""]) == {256}
    with pytest.raises(ValueError, match=r"stop string '\\udcff' holds half a character"):
        stop_ids(tiny_text.tokenizer(), ["\udcff"])

"""Streaming text and stop strings."""

import pytest

from eagle.text import Detokenizer, StopStrings

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

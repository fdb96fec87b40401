"""Rows that are decoded side by side write what each writes alone, token for token in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from eagle.batching import Batch, side_by_side
from eagle.decode import DecodeOptions, Session, Step
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.level import LevelDrafter
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.none import NoDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, TreePolicy
from tests.pairs import NAMED, PAIRS
from tests.shared_passes import counted_passes
from tests.tiny import random_ids, tiny_head, tiny_target

WARM = Sampling(1.0)
PROMPTS = [random_ids(length, seed=length) for length in (5, 31, 12, 2, 18)]  # uneven
ENDS = (17, 4, 23, 9, 12)  # so are their ends: rows leave, others come


@dataclass(frozen=True)
class Answer:
    """One row: a session's prompt and how it is decoded."""

    session: Session
    prompt: list[int]
    options: DecodeOptions
    seed: int = 0

    def rounds(self):
        return self.session.rounds(self.prompt, self.options, seeded(self.seed))

    def alone(self) -> list[Step]:
        return list(self.session.decode(self.prompt, self.options, seeded(self.seed)))


def answers(target: Target, drafter: Callable[[], Drafter | None], options: DecodeOptions) -> list[Answer]:
    return [
        Answer(Session(target, drafter()), prompt, replace(options, max_new_tokens=end), seed)
        for seed, (prompt, end) in enumerate(zip(PROMPTS, ENDS, strict=True))
    ]


def together(rows: Sequence[Answer], num_rows: int) -> list[list[Step]]:
    steps: list[list[Step]] = [[] for _ in rows]
    for number, step in side_by_side((row.rounds() for row in rows), num_rows):
        steps[number].append(step)
    return steps


def told(steps: Sequence[Step]) -> list[tuple]:
    return [(step.tokens, step.num_accepted, step.finish, step.logprobs) for step in steps]


@pytest.fixture(scope="module")
def pair():
    target = tiny_target()
    return target, tiny_head(target)


def of_head(pair, policy: TreePolicy, lookup: bool = False) -> Callable[[], Drafter]:
    target, head = pair
    return lambda: EagleDrafter(head, target.embed, policy, LookupDrafter(most=2, least=1) if lookup else None)


@pytest.mark.parametrize(("name", "verifier"), PAIRS)
def test_every_tree_with_every_verifier(pair, name, verifier):
    options = DecodeOptions(WARM, verifier=verifier, ignore_end=True)
    make = of_head(pair, NAMED[name])
    expected = [told(row.alone()) for row in answers(pair[0], make, options)]
    assert [told(steps) for steps in together(answers(pair[0], make, options), 3)] == expected


@pytest.mark.parametrize("name", NAMED)
def test_every_tree_at_temperature_0(pair, name):
    options, make = DecodeOptions(ignore_end=True), of_head(pair, NAMED[name])
    expected = [told(row.alone()) for row in answers(pair[0], make, options)]
    assert [told(steps) for steps in together(answers(pair[0], make, options), 4)] == expected


DRAFTERS: dict[str, Callable] = {
    "plain": lambda pair: lambda: None,
    "lookup": lambda pair: lambda: LookupDrafter(most=2, least=1),
    "beside": lambda pair: of_head(pair, EagleTree(8, depth=3, top_k=3), lookup=True),
    "level": lambda pair: lambda: LevelDrafter(tiny_target(seed=1), NoDrafter(), buffer=3),
    "level with a head": lambda pair: lambda: LevelDrafter(pair[0], of_head(pair, EagleTree(5, depth=2, top_k=2))()),
}


@pytest.mark.parametrize("sampling", [Sampling(), WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("name", DRAFTERS)
def test_every_drafter(pair, name, sampling):
    options, make = DecodeOptions(sampling, ignore_end=True, logprobs=2), DRAFTERS[name](pair)
    expected = [told(row.alone()) for row in answers(pair[0], make, options)]
    found = [told(steps) for steps in together(answers(pair[0], make, options), 5)]
    for one, other in zip(found, expected, strict=True):
        assert [entry[:3] for entry in one] == [entry[:3] for entry in other]
        # log-probabilities are sums in another order: 1e-5 is a hundred times what float32 rounds off here
        for mine, theirs in zip(one, other, strict=True):
            assert [t.token for t in mine[3]] == [t.token for t in theirs[3]]
            assert all(abs(a.logprob - b.logprob) < 1e-5 for a, b in zip(mine[3], theirs[3], strict=True))


def test_rules_of_their_own_go_side_by_side(pair):
    """Other policies, verifiers, temperatures, penalties, processors, ends and reused prefixes in one batch."""
    target, _ = pair
    tokenizer_free = [
        (of_head(pair, NAMED["eagle"]), DecodeOptions(max_new_tokens=14, ignore_end=True)),
        (of_head(pair, NAMED["mixed"]), DecodeOptions(Sampling(0.8, top_p=0.9), 9, "hsd", ignore_end=True)),
        (of_head(pair, NAMED["coupled"]), DecodeOptions(Sampling(1.3), 21, "coupled", ignore_end=True)),
        (of_head(pair, NAMED["chain"]), DecodeOptions(Sampling(1.0, repetition_penalty=1.4), 11, "block")),
        (lambda: None, DecodeOptions(Sampling(1.0, frequency_penalty=0.7, logit_bias={3: 2.0}), 16, "hsd")),
        (of_head(pair, NAMED["eagle"], lookup=True), DecodeOptions(WARM, 30, stop_ids=frozenset(range(0, 97, 9)))),
    ]

    def rows() -> list[Answer]:
        made = []
        for seed, (drafter, options) in enumerate(tokenizer_free):
            session = Session(target, drafter(), block=4 if seed % 2 else None)
            first = random_ids(13, seed)
            list(session.decode(first, replace(options, max_new_tokens=5), seeded(seed)))  # the next turn finds its own
            made.append(Answer(session, [*first, *random_ids(3 + 5 * seed, seed + 50)], options, seed))
        return made

    expected = [told(row.alone()) for row in rows()]
    assert [told(steps) for steps in together(rows(), 4)] == expected
    assert len({len(steps) for steps in expected}) > 2, "ends are not uneven"


def test_rows_share_their_passes(pair, monkeypatch):
    """While two rows or more are at work there is one pass of the target a round, whoever is beside whom."""
    sizes = counted_passes(monkeypatch)
    rows = answers(pair[0], of_head(pair, NAMED["eagle"]), DecodeOptions(ignore_end=True))
    rounds = sorted(len(steps) - 1 for steps in together(rows, len(rows)))  # without the prompts' steps
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == rounds[-2]
    assert sum(sizes) == sum(rounds) - (rounds[-1] - rounds[-2]), "the last row has its passes alone"


def test_rows_that_take_turns_share_none(pair, monkeypatch):
    sizes, batch = counted_passes(monkeypatch), Batch[Step](shares=False)
    rows = answers(pair[0], of_head(pair, NAMED["eagle"]), DecodeOptions(ignore_end=True))
    for row in rows:
        batch.add(row.rounds())
    while len(batch):
        batch.advance()
    assert not sizes


def test_a_target_that_cannot_share_passes_writes_the_same(monkeypatch):
    """Rotary angles that change with the length: rows take turns at the target, by themselves."""
    target = tiny_target(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert target.why_not_together
    sizes, make = counted_passes(monkeypatch), of_head((target, tiny_head(target)), NAMED["eagle"])
    expected = [told(row.alone()) for row in answers(target, make, DecodeOptions(ignore_end=True))]
    assert [
        told(s) for s in together(answers(target, make, DecodeOptions(ignore_end=True)), 3)
    ] == expected and not sizes


def test_a_long_prompt_leaves_the_others_a_round_between_its_pieces(pair):
    target, _ = pair
    batch = Batch[Step]()
    short = batch.add(Answer(Session(target), [1, 2, 3], DecodeOptions(max_new_tokens=40, ignore_end=True)).rounds())
    assert batch.advance() == [short]
    long = batch.add(Answer(Session(target, block=8), random_ids(44), DecodeOptions(ignore_end=True)).rounds())
    for _ in range(5):  # pieces of 8, the sixth holds the rest
        assert batch.advance() == [short]
    assert set(batch.advance()) == {short, long}


def test_a_row_that_fails_or_leaves_is_alone_in_that(pair):
    target, _ = pair
    rows = answers(target, of_head(pair, NAMED["eagle"]), DecodeOptions(ignore_end=True))
    expected = told(rows[0].alone())
    batch, steps = Batch[Step](), []
    good = batch.add(answers(target, of_head(pair, NAMED["eagle"]), DecodeOptions(ignore_end=True))[0].rounds())
    bad = batch.add(Answer(rows[1].session, [], DecodeOptions()).rounds())  # an empty prompt
    leaving = batch.add(rows[2].rounds())
    while len(batch):
        for row in batch.advance():
            if row is good and row.told is not None:
                steps.append(row.told)
            if row is leaving and len(steps) == 2:
                batch.remove(leaving)
    assert told(steps) == expected and isinstance(bad.error, ValueError) and not leaving.is_over
    assert told(rows[2].alone()) == told(replace(rows[2], session=Session(target, rows[2].session.drafter)).alone())


def test_works_begin_as_others_end(pair):
    begun: list[int] = []

    def work(number: int):
        begun.append(number)
        for _ in range(number):
            yield number

    found = list(side_by_side(map(work, (3, 1, 2, 4)), 2))
    assert [number for number, _ in found] == [0, 1, 0, 0, 2, 2, 3, 3, 3, 3]
    assert begun == [3, 1, 2, 4]

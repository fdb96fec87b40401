"""Rows that are decoded side by side write what each writes alone, token for token in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from eagle.batching import side_by_side
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

"""Models and drafters of three tokens whose laws are tables, and a real decode loop with every random choice listed.

A choice is made in three places: the target's plain tokens and its verdicts, the verdicts of levels, and the draws of
the lowest drafter. All of them ask one list of answers, which runs through every combination.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Chance, Draw
from eagle.context import Context
from eagle.decode import DecodeOptions, Session
from eagle.drafters.protocol import Drafter
from eagle.engine.protocol import TargetOutput
from eagle.judging import ChosenTokens
from eagle.sampling import Sampling, seeded
from eagle.trees.exact import all_trees
from hsd_verify import DraftTree, Verdict

Text = tuple[int, ...]
VOCAB = 3
KNOWN_LAWS: dict[object, tuple[Tensor, list[Tensor]]] = {}


class TableCache:
    """Committed tokens, and those of the pass under way."""

    def __init__(self, limit: int):
        self.limit, self.ids, self.passed = limit, [], []
        self.is_stale = False

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def max_depth(self) -> int:
        return self.limit - self.length - 1

    def usable_prefix(self, num_tokens: int) -> int:
        return self.length

    def check_room(self, num_tokens: int) -> None:
        if self.length + num_tokens > self.limit:
            raise ValueError("no room")

    def keep(self, nodes: Tensor) -> None:
        self.ids += [self.passed[node] for node in nodes.tolist()]
        self.passed = []

    def truncate(self, length: int) -> None:
        self.ids = self.ids[:length]


@dataclass
class TableModel:
    """Logits are a function of the whole text. Counts its passes and checks that caches hold what was read."""

    seed: int
    spread: float = 1.5
    limit: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    end_token_ids: frozenset[int] = frozenset()
    tokenizer: None = None
    passes: int = 0
    memory: dict[Text, Tensor] = field(default_factory=dict)

    def logits(self, text: Text) -> Tensor:
        if text not in self.memory:
            draws = seeded(self.seed * 1_000_003 + hash(text) % 2**40)
            self.memory[text] = self.spread * torch.randn(VOCAB, dtype=torch.float64, generator=draws)
        return self.memory[text]

    def check_scores_trees(self) -> None: ...

    def explain_bad_logits(self, ids: list[int]) -> str:
        return "never"

    def new_cache(self) -> TableCache:
        return TableCache(self.limit)

    def prefill(self, ids: Tensor, cache: TableCache) -> TargetOutput:
        cache.check_room(len(ids))
        self.passes += 1
        cache.ids += ids.tolist()
        return TargetOutput(self.logits(tuple(cache.ids))[None], self.features(ids.tolist()))

    def forward_tree(self, tokens: Tensor, ancestors: Tensor, cache: TableCache) -> TargetOutput:
        cache.check_room(int(ancestors.sum(-1).max()))
        self.passes += 1
        cache.passed = tokens.tolist()
        texts = [(*cache.ids, *tokens[row].tolist()) for row in ancestors]
        return TargetOutput(torch.stack([self.logits(text) for text in texts]), self.features(cache.passed))

    def features(self, ids: list[int]) -> Tensor:
        """A feature names its token, so that a drafter can check what it is told."""
        return torch.tensor([[float(token), float(self.seed)] for token in ids]).reshape(-1, 2)


class TableDrafter:
    """Draws chains from a table, or places its best tokens. Checks what it is told of features."""

    def __init__(self, model: TableModel, length: int, reads: TableModel | None = None):
        self.model, self.length, self.reads = model, length, reads
        self.text: list[int] = []
        self.features: list[float] = []

    verifier = "hsd"

    @property
    def num_known(self) -> int:
        return len(self.text)

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        self.text += tokens.tolist()
        if features is not None:
            self.features += features[:, 0].tolist()
            assert self.reads is None or set(features[:, 1].tolist()) <= {self.reads.seed}, "another model's features"
        assert len(self.features) < len(self.text)
        assert self.features == [float(token) for token in self.text[: len(self.features)]], "features of another text"

    def truncate(self, num_tokens: int) -> None:
        assert num_tokens <= len(self.text)
        self.text, self.features = self.text[:num_tokens], self.features[: max(num_tokens - 1, 0)]

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        tokens, laws = [self.text[-1]], []
        settled = chance.noise is not None or chance.sampling.greedy
        for _ in range(min(self.length, max_depth)):
            logits = self.model.logits((*self.text, *tokens[1:]))
            if settled:
                judged = ChosenTokens(chance.sampling, chance.noise.field if chance.noise else None, None)
                tokens.append(judged.token(logits, len(self.text) + len(tokens) - 1))
            else:
                laws.append(chance.sampling.law(logits))
                tokens.append(int(chance.draw(laws[-1][None], chance.generator)))
        parents = torch.arange(-1, len(tokens) - 1)
        if not laws:
            return DraftTree(parents, torch.tensor(tokens))
        probs = torch.stack([*laws, torch.zeros_like(laws[0])])
        return DraftTree(parents, torch.tensor(tokens), parents >= 0, probs)


@dataclass
class ListedJudge:
    """`IndependentDraws` with its random numbers taken from a list of choices."""

    sampling: Sampling
    verifier: str
    draw: Draw

    def token(self, logits: Tensor, position: int, context: Context | None = None) -> int:
        """The first token is left out of the lists: plain, and threefold work."""
        return int(logits.argmax())

    def verdict(self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None) -> Verdict:
        stop, residuals = self._law(tree, logits, context)
        node = self._ask(stop)
        return Verdict(torch.tensor(tree.path(node), dtype=torch.int64), self._ask(residuals[node]))

    def _ask(self, weights: Tensor) -> int:
        return int(self.draw(weights[None], None))

    def _law(self, tree: DraftTree, logits: Tensor, context: Context | None) -> tuple[Tensor, list[Tensor]]:
        """The verifier's law, worked out once for a tree: most branches of a list share most of theirs."""
        drawn = None if tree.draft_probs is None else tree.draft_probs.numpy().tobytes()
        before = None if context is None else (*context.listed, context.num_prompt)
        key = (self.verifier, self.sampling, tree.parent_list, tree.token_list, drawn, logits.numpy().tobytes(), before)
        if key not in KNOWN_LAWS:
            contexts = None if context is None else context.after(tree, range(tree.num_nodes))
            law = hsd_verify.law(tree, self.sampling.laws(logits, contexts), self.verifier)
            KNOWN_LAWS[key] = law.stop, [law.residual(node) for node in range(tree.num_nodes)]
        return KNOWN_LAWS[key]

    def chance(self, position: int) -> Chance:
        return Chance(self.sampling.for_drafts, draw=self.draw)

    def laws(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> Tensor:
        return self.sampling.laws(logits, contexts)


Build = Callable[[], tuple[TableModel, Drafter]]


def text_law(
    build: Build, prompt: list[int], num_tokens: int, sampling: Sampling, verifier: str, patch: pytest.MonkeyPatch
) -> dict[Text, float]:
    """The law of what a real session emits, every random choice of every level listed."""

    def emitted(draw: Draw) -> Text:
        patch.setattr("eagle.decode.judge", lambda *_: ListedJudge(sampling, verifier, draw))
        patch.setattr(
            "eagle.drafters.level.judge_below", lambda _chance, own, name: ListedJudge(own or sampling, name, draw)
        )
        target, drafter = build()
        steps = Session(target, drafter).decode(prompt, DecodeOptions(sampling, num_tokens))
        return tuple(token for step in steps for token in step.tokens)

    found: dict[Text, float] = {}
    for probability, text in all_trees(emitted):
        found[text] = found.get(text, 0.0) + probability
    return found


def plain_law(target: TableModel, prompt: list[int], num_tokens: int, sampling: Sampling) -> dict[Text, float]:
    """The target's own law of the next tokens behind its best one, up to the end of text."""
    first = int(target.logits(tuple(prompt)).argmax())
    return dict(_continued(target, tuple(prompt), (first,), num_tokens - 1, sampling, 1.0))


def _continued(
    target: TableModel, prompt: Text, text: Text, left: int, sampling: Sampling, probability: float
) -> Iterator[tuple[Text, float]]:
    if not left or (text and text[-1] in target.end_token_ids):
        yield text, probability
        return
    context = Context.of((*prompt, *text), len(prompt))
    for token, own in enumerate(sampling.laws(target.logits((*prompt, *text))[None], [context])[0].tolist()):
        if own:
            yield from _continued(target, prompt, (*text, token), left - 1, sampling, probability * own)


def total_variation(first: dict[Text, float], second: dict[Text, float]) -> float:
    return sum(abs(first.get(text, 0.0) - second.get(text, 0.0)) for text in first.keys() | second.keys()) / 2

"""A draft small enough to list: a table of logits for a head, every branch of a policy's draws, the law of one round.

Letters: F nodes of a frontier, R rows of a proposer, V target vocabulary, Vd draft vocabulary.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

import hsd_verify
from eagle.sampling import Sampling
from eagle.trees import TreePolicy
from eagle.vocab import DraftVocabulary
from hsd_verify import DraftTree
from hsd_verify.exact.enumerate import target_rows, text_law
from hsd_verify.exact.processes import Model, Text

ROOT_TOKEN = 0


def logits_after(text: Text, size: int, seed: int) -> Tensor:
    """Unrelated logits (size,) for every text, in float64."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, text)).encode()))
    return 1.5 * torch.randn(size, generator=generator, dtype=torch.float64)


def table_model(size: int, seed: int, sampling: Sampling) -> Model:
    """A target: the law after every text, by the same function that makes the draft's laws."""
    return lambda text: sampling.law(logits_after(text, size, seed))


class TableProposer:
    """A `Proposer` after `prefix` whose logits are a function of the path; knows Vd of the V tokens."""

    def __init__(self, draft_ids: list[int], vocab_size: int, seed: int, prefix: Text = ()):
        self.vocabulary = DraftVocabulary.from_target_ids(torch.tensor(draft_ids), vocab_size)
        self.root_token = prefix[-1] if prefix else ROOT_TOKEN
        self._seed, self._texts = seed, [prefix]
        self.root_logits = self._logits(prefix)

    def expand(self, tokens: Tensor, parents: Tensor) -> Tensor:
        texts = [(*self._texts[row], token) for token, row in zip(tokens.tolist(), parents.tolist(), strict=True)]
        self._texts += texts
        return torch.stack([self._logits(text) for text in texts])  # (F, Vd)

    def _logits(self, text: Text) -> Tensor:
        return logits_after(text, len(self.vocabulary.d2t), self._seed)


class Branches:
    """A `Draw` that takes, run by run, every combination of tokens with positive probability."""

    def __init__(self) -> None:
        self._script: list[int] = []
        self._options: list[list[tuple[float, tuple[int, ...]]]] = []

    def __call__(self, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
        step = len(self._options)
        self._options.append(_joint_draws(weights))
        if step == len(self._script):
            self._script.append(0)
        return torch.tensor(self._options[step][self._script[step]][1])

    def trees(self, grow: Callable[[], DraftTree]) -> Iterator[tuple[float, DraftTree]]:
        """Every tree `grow` can return when it draws with this object, with its probability."""
        while True:
            self._options = []
            tree = grow()
            chosen = [options[index] for options, index in zip(self._options, self._script, strict=True)]
            yield math.prod(prob for prob, _ in chosen), tree
            if not self._next_script():
                return

    def _next_script(self) -> bool:
        while self._script:
            step = len(self._script) - 1
            if self._script[step] + 1 < len(self._options[step]):
                self._script[step] += 1
                return True
            self._script.pop()
        return False


def _joint_draws(weights: Tensor) -> list[tuple[float, tuple[int, ...]]]:
    """Outcomes of one draw a row of weights (F, Vd), with their joint probabilities."""
    rows = [[(p, x) for x, p in enumerate((row / row.sum()).tolist()) if p > 0] for row in weights]
    return [(math.prod(p for p, _ in draws), tuple(x for _, x in draws)) for draws in product(*rows)]


def round_law(trees: Iterator[tuple[float, DraftTree]], target: Model, length: int, verifier: str = "hsd") -> Tensor:
    """Law (V,) * length of the text after one round, everything after the round drawn from the target."""
    law = torch.zeros((len(target(())),) * length, dtype=torch.float64)
    for prob, tree in trees:
        outcome = hsd_verify.law(tree, target_rows(tree, target), verifier)
        for node, stop in enumerate(outcome.stop.tolist()):
            if stop > 0:
                _add_continuations(law, tree, node, prob * stop * outcome.residual(node), target)
    return law


def _add_continuations(law: Tensor, tree: DraftTree, node: int, masses: Tensor, target: Model) -> None:
    path = tuple(tree.token_list[v] for v in tree.path(node))
    for token, mass in enumerate(masses.tolist()):
        text, left = (*path, token), law.dim() - len(path) - 1
        law[text] += mass * (text_law(target, left, text) if left else 1.0)


def policy_error(policy: TreePolicy, branches: Branches, sampling: Sampling, draft_ids, size: int, depth: int) -> float:
    """Total variation between what a round emits with this policy and `hsd`, and the target's own text."""
    target = table_model(size, 1, sampling)
    trees = branches.trees(lambda: policy.grow(TableProposer(draft_ids, size, 2), sampling, depth))
    emitted = round_law(trees, target, depth + 1)
    return hsd_verify.exact.enumerate.total_variation(emitted, text_law(target, depth + 1))

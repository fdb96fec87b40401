"""Does an engine draw from the target's law? Its texts are counted along one path: the target's greedy text.

At depth d of the path stand the texts whose first d tokens are the path's. The tokens they go on with are a draw from
the target's exact law there, so that each depth gives a chi-square of its own, and all of them add up.

Letters: D depths, V vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eagle.engine.target import Target
from eagle.sampling import Sampling
from evaluation.selfcheck.counting import chi_square_tail

LEAST_EXPECTED = 5.0  # draws a cell; rarer tokens are pooled
FEWEST = 40  # texts at a depth that is still counted
Text = Sequence[int]


@dataclass(frozen=True)
class PathLaw:
    """A prompt, the target's greedy text behind it, and its law at every depth."""

    prompt: tuple[int, ...]
    path: tuple[int, ...]  # D
    logits: Tensor  # (D, V)

    @classmethod
    def of(cls, target: Target, prompt: Text, path: Text) -> "PathLaw":
        read = target.read(torch.tensor([[*prompt, *path]])).logits[0]  # (T + D, V)
        return cls(tuple(prompt), tuple(path), read[len(prompt) - 1 : -1])

    def told(self, sampling: Sampling) -> float:
        """Expected number of draws a text that leave the path, or could have: how much there is to be counted."""
        kept = sampling.law(self.logits)[torch.arange(len(self.path)), list(self.path)].double()  # (D,)
        reached = torch.cat([kept.new_ones(1), kept.cumprod(0)[:-1]])
        return float((reached * kept * (1 - kept)).sum())


@dataclass(frozen=True)
class Counted:
    """Texts against the law."""

    statistic: float
    degrees: int
    num_texts: int

    @property
    def p_value(self) -> float:
        return chi_square_tail(self.statistic, self.degrees)

    def __str__(self) -> str:
        return f"chi-square {self.statistic:.0f} on {self.degrees}, p = {self.p_value:.2g} ({self.num_texts} texts)"


def count(law: PathLaw, sampling: Sampling, texts: Sequence[Text]) -> Counted:
    """Pearson's chi-square over all depths that enough texts come to."""
    statistic, degrees, here = 0.0, 0, [tuple(text) for text in texts]
    for depth, probs in enumerate(sampling.law(law.logits).double()):  # (V,)
        if len(here) < FEWEST:
            break
        found, cells = _depth(Counter(text[depth] for text in here if len(text) > depth), probs)
        statistic, degrees = statistic + found, degrees + cells - 1
        here = [text for text in here if text[depth : depth + 1] == law.path[depth : depth + 1]]
    return Counted(statistic, degrees, len(texts))


def _depth(seen: Counter[int], probs: Tensor) -> tuple[float, int]:
    """Statistic and number of cells: a cell for each common token, one for all others."""
    draws = sum(seen.values())
    common = (draws * probs >= LEAST_EXPECTED).nonzero()[:, 0].tolist()
    cells = [(seen[token], draws * float(probs[token])) for token in common]
    rest = (draws - sum(count for count, _ in cells), draws * float(1 - probs[common].sum()))
    if rest[1] >= LEAST_EXPECTED:
        cells.append(rest)
    elif rest[0]:  # too few are expected for a cell: they count as the rarest common token's
        count, expected = min(cells, key=lambda cell: cell[1])
        cells[cells.index((count, expected))] = (count + rest[0], expected + max(rest[1], 0.0))
    return sum((count - expected) ** 2 / expected for count, expected in cells), len(cells)

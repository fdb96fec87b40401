"""The tree of coupled decoding: EAGLE's, on draft logits that carry the noise of the target's own tokens.

The target takes `argmax z_p + T g`, and the draft knows g. With z_q its guess of z_p, a token is that argmax with about

    value = (1 - plain) * softmax(sharpness * (z_q + T g)) + plain * softmax(z_q)

The first part is exact if what z_q misses is itself Gumbel noise of scale 1 / sharpness. The second one is what is left
where the target is surer than the draft: noise then flips the draft's order and not the target's.

The noise is fixed before drafting, so growth may look at tokens, go best first and re-rank at the end: nothing that is
forbidden for drawn nodes is forbidden here.

Letters: F nodes of a frontier, Vd draft vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from eagle.chance import Chance
from eagle.judging import COUPLED
from eagle.trees.deterministic import Values, grow_best
from eagle.trees.protocols import Growing, Proposer, check_counts, check_number


@dataclass(frozen=True)
class CoupledValues:
    """How much the draft's perturbed order says of the target's. The same at all temperatures: docs/trees.md."""

    sharpness: float = 1.0
    plain: float = 0.3  # share of the draft's plain law

    def __post_init__(self) -> None:
        check_number("sharpness", self.sharpness, above=0)
        check_number("plain", self.plain, at_least=0, below=1)


@dataclass(frozen=True)
class CoupledTree:
    """EAGLE's dynamic tree on perturbed draft logits. Only for the verifier `coupled`, whose noise it reads."""

    num_nodes: int = 16  # with the root
    depth: int = 8  # levels below the root
    top_k: int = 8  # children per node and nodes expanded per level
    values: CoupledValues | None = None  # None: the head's (`eagle.planner` fills them in), or neutral ones

    verifier: ClassVar[str] = COUPLED

    def __post_init__(self) -> None:
        if isinstance(self.values, dict):  # from YAML
            object.__setattr__(self, "values", CoupledValues(**self.values))
        if not isinstance(self.values, CoupledValues | None):
            raise ValueError(f"values are {self.values!r}, give fields of it, such as values.sharpness=1.1")
        check_counts(num_nodes=(self.num_nodes, 1), depth=(self.depth, 0), top_k=(self.top_k, 1))

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        """Raises ValueError above temperature 0 without shared noise: another verifier decides then."""
        noise, temperature = chance.noise, chance.sampling.temperature
        if noise is None and not chance.sampling.greedy:
            raise ValueError(
                "tree 'coupled' reads the noise that verifier 'coupled' shares with it, and this verifier draws on its "
                "own: choose --verifier coupled, or another tree such as 'auto'"
            )
        values = self.values or CoupledValues()

        def values_of(logits: Tensor, depth: int) -> Values:
            if noise is None:
                return Values(logits.log_softmax(-1), are_logs=True)
            perturbed = logits + temperature * noise.below(depth, proposer.vocabulary.target_ids)  # (F, Vd)
            joint = (values.sharpness * perturbed).softmax(-1).mul_(1 - values.plain)
            return Values(joint.add_(logits.softmax(-1), alpha=values.plain), are_logs=False)

        return grow_best(self, proposer, min(self.depth, max_depth), values_of)

"""The default tree, and trees by name."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eagle.chance import Chance
from eagle.judging import COUPLED, INDEPENDENT
from eagle.sampling import Sampling
from eagle.trees.budgeted import BudgetedTree
from eagle.trees.coupled import CoupledTree, CoupledValues
from eagle.trees.deterministic import EagleTree
from eagle.trees.fixed import IidPaths, SampledChain, WithoutReplacement
from eagle.trees.protocols import Growing, Proposer, TreePolicy, check_counts, check_number
from eagle.trees.undrafted import Undrafted
from eagle.trees.valued import Acceptance, ValuedTree

DEFAULT_NUM_NODES = 16
NOT_BY_HAND = {"by_hand": False}
SAMPLED_FROM = 0.7  # the temperature, for heads without numbers of their own: docs/trees.md


def hybrid(num_nodes: int = DEFAULT_NUM_NODES, **fields: Any) -> ValuedTree:
    """A deterministic set and one sampled child from the rest at every node."""
    return ValuedTree(num_nodes, **{"max_sampled": 1, **fields})


def mixed(num_nodes: int = DEFAULT_NUM_NODES, **fields: Any) -> ValuedTree:
    """Placed children and several sampled ones at every node."""
    return ValuedTree(num_nodes, **{"max_sampled": 4, **fields})


def sampled(num_nodes: int = DEFAULT_NUM_NODES, **fields: Any) -> ValuedTree:
    """Sampled siblings only, as many at every node as their values ask for: a stochastic beam."""
    return ValuedTree(num_nodes, **{"max_sampled": 8, "max_placed": 0, "descendants": 0.2, **fields})


def placed(num_nodes: int = DEFAULT_NUM_NODES) -> EagleTree:
    """EAGLE's deterministic tree, as the default has it."""
    return EagleTree(num_nodes, depth=8, top_k=8)


def partly_sampled(num_nodes: int = DEFAULT_NUM_NODES, acceptance: Acceptance | None = None) -> ValuedTree:
    """Placed and drawn children by value, as the default has it; `acceptance` of the head, None: neutral numbers."""
    return mixed(num_nodes, max_sampled=6, covered=0.8, descendants=0.3, acceptance=acceptance or Acceptance())


def perturbed(num_nodes: int = DEFAULT_NUM_NODES, values: CoupledValues | None = None) -> CoupledTree:
    """The tree of coupled decoding, as the default has it; `values` of the head, None: neutral numbers."""
    return CoupledTree(num_nodes, values=values)


@dataclass(frozen=True)
class AutoTree:
    """The policy measured best for the temperature: deterministic where it is low, partly sampled above.

    Under coupled decoding it is the tree on perturbed logits at every temperature but 0.

    `eagle.planner.plan` fills in trees from the numbers of the head and of the machine. Without them every size is
    `DEFAULT_NUM_NODES` and trees are partly sampled from temperature `SAMPLED_FROM` on.
    """

    num_nodes: int | None = None  # with the root; None: what pays
    greedy_nodes: int | None = None  # of the deterministic tree; None: num_nodes, or what pays
    sampled_from: float | None = None  # temperature from which part of the tree is sampled; None: where it pays
    # temperature, its tree; the nearest temperature serves. Never written by hand, so no field of `auto:field=value`
    trees: tuple[tuple[float, TreePolicy], ...] = field(default=(), metadata=NOT_BY_HAND)
    coupled_trees: tuple[tuple[float, TreePolicy], ...] = field(default=(), metadata=NOT_BY_HAND)  # for shared noise
    # ascending: for texts of at least so many tokens the choice is another one's
    longer: tuple[tuple[int, "AutoTree"], ...] = field(default=(), metadata=NOT_BY_HAND)
    # ascending: the same where so many rows of a batch, or more, share their passes
    crowded: tuple[tuple[int, "AutoTree"], ...] = field(default=(), metadata=NOT_BY_HAND)

    def __post_init__(self) -> None:
        for name in ("num_nodes", "greedy_nodes"):
            if getattr(self, name) is not None:
                check_counts(**{name: (getattr(self, name), 1)})
        if self.sampled_from is not None:
            check_number("sampled_from", self.sampled_from, at_least=0)

    @property
    def verifier(self) -> str:
        """Coupled, unless it is said from where on part of a tree is sampled."""
        return COUPLED if self.sampled_from is None else INDEPENDENT

    @property
    def may_be_plain(self) -> bool:
        """Whether it may choose to draft nothing."""
        own = any(isinstance(tree, Undrafted) for _, tree in (*self.trees, *self.coupled_trees))
        return own or any(tree.may_be_plain for _, tree in (*self.longer, *self.crowded))

    def choose(self, sampling: Sampling, coupled: bool = False, length: int = 0, rows: int = 1) -> TreePolicy:
        """The tree for a sampling behind a text of `length` tokens; `coupled`: for a target whose noise is shared.

        rows: of the batch that shares passes.
        """
        crowded = [tree for least, tree in self.crowded if least <= rows]
        if crowded:
            return crowded[-1].choose(sampling, coupled, length)
        longer = [tree for least, tree in self.longer if least <= length]
        if longer:
            return longer[-1].choose(sampling, coupled)
        coupled = coupled and not sampling.greedy
        trees = self.coupled_trees if coupled else self.trees
        if trees:
            return min(trees, key=lambda entry: abs(entry[0] - sampling.temperature))[1]
        if coupled:
            return perturbed(self.num_nodes or DEFAULT_NUM_NODES)
        if sampling.temperature < (SAMPLED_FROM if self.sampled_from is None else self.sampled_from):
            return placed(self.greedy_nodes or self.num_nodes or DEFAULT_NUM_NODES)
        return partly_sampled(self.num_nodes or DEFAULT_NUM_NODES)

    def grow(self, proposer: Proposer, chance: Chance, max_depth: int) -> Growing:
        return self.choose(chance.sampling, coupled=chance.noise is not None).grow(proposer, chance, max_depth)


def settle(policy: TreePolicy, sampling: Sampling, coupled: bool, length: int = 0, rows: int = 1) -> TreePolicy:
    """What a policy that chooses among others takes behind a text of `length` tokens; any other one is itself."""
    return policy.choose(sampling, coupled, length, rows) if isinstance(policy, AutoTree) else policy


POLICIES: Mapping[str, Callable[..., TreePolicy]] = {
    "auto": AutoTree,
    "eagle": EagleTree,
    "coupled": CoupledTree,
    "chain": SampledChain,
    "iid": IidPaths,
    "without_replacement": WithoutReplacement,
    "sampled": sampled,
    "hybrid": hybrid,
    "mixed": mixed,
    "budgeted": BudgetedTree,
}


def make_policy(name: str = "auto", **fields: Any) -> TreePolicy:
    """A policy by name, `fields` being those of its class.

    Raises ValueError for a name or a field that does not exist and for values outside their range.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown tree '{name}': choose one of {', '.join(POLICIES)}")
    known = _fields(POLICIES[name])
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ValueError(f"tree '{name}' has no field {', '.join(unknown)}: known are {', '.join(known)}")
    try:
        return POLICIES[name](**fields)
    except TypeError as error:  # a field of a field
        raise ValueError(f"tree '{name}': {error}") from None


def parse_policy(text: str) -> TreePolicy:
    """A policy from `NAME` or `NAME:field=value,field=value`.

    A value with several numbers is written `3+2+1`, a field of a field `cost.draft_step_ms=2`.
    """
    name, _, rest = text.partition(":")
    fields: dict[str, Any] = {}
    for entry in filter(None, rest.split(",")):
        place, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"tree '{text}': '{entry}' must be FIELD=VALUE")
        owner, _, own = place.rpartition(".")
        (fields.setdefault(owner, {}) if owner else fields)[own] = _number(value, text)
    return make_policy(name, **fields)


def _number(value: str, text: str) -> Any:
    try:
        numbers = [float(part) if "." in part or "e" in part else int(part) for part in value.split("+")]
    except ValueError:
        raise ValueError(f"tree '{text}': '{value}' is not a number, nor numbers joined by '+'") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _fields(kind: Callable[..., TreePolicy]) -> list[str]:
    owner = kind if dataclasses.is_dataclass(kind) else ValuedTree
    return [own.name for own in dataclasses.fields(owner) if own.metadata.get("by_hand", True)]

"""How an answer's tokens are decided: the plain ones, those of a tree, and what a drafter may know of the chance.

    IndependentDraws   laws of the target, a rule of `hsd_verify` with random numbers of its own
    ChosenTokens       after every text one token is settled: the target's best, with the answer's noise (coupled
                       decoding) or without (temperature 0); a tree is followed as far as it holds those tokens

The decode loop knows a `Judge` and not which. Positions count from the start of the sequence; the context is the text
before that position, needed where the sampling reads it.

Letters: N tree nodes including the root, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

import hsd_verify
from eagle.chance import Chance, Noise
from eagle.context import Context
from eagle.noise import NoiseField, answer_key
from eagle.sampling import Sampling, drawn_token, greedy_tokens, seeded
from hsd_verify import DraftTree, Verdict
from hsd_verify.transfer import send

COUPLED, INDEPENDENT = "coupled", "hsd"  # the best verifier of each kind
VERIFIERS = (*hsd_verify.VERIFIERS, COUPLED)
AUTO = "auto"  # in options: the verifier that the drafter's trees are made for


class Judge(Protocol):
    """Decides the tokens of one answer."""

    @property
    def sampling(self) -> Sampling: ...

    def token(self, logits: Tensor, position: int, context: Context | None = None) -> int:
        """The token at `position`, from the target's logits (V,) before it."""
        ...

    def verdict(self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None) -> Verdict:
        """How much of a tree is kept; logits (N, V), `position` is the one behind the root, the context's last token.

        The law at a node is that of the context and the node's path.
        """
        ...

    def chance(self, position: int) -> Chance:
        """What a drafter may know below a root whose successor stands at `position`."""
        ...

    def laws(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> Tensor | None:
        """The laws (n, V) that tokens are drawn from after logits (n, V); None where they are settled."""
        ...


def judge(
    sampling: Sampling, verifier: str, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Judge:
    """The judge of the next answer. Raises ValueError for a verifier that does not exist.

    Coupled answers take their key from the generator: one number each, so that no two answers share their noise.
    """
    check_verifier(verifier)
    if sampling.greedy:  # every verifier comes to this
        return ChosenTokens(sampling, None, generator)
    if verifier == COUPLED:
        key = answer_key(generator)
        return ChosenTokens(sampling, NoiseField(key, device), seeded(key, device))
    return IndependentDraws(sampling, verifier, generator)


def judge_below(chance: Chance, sampling: Sampling | None, verifier: str) -> Judge:
    """How a level of a hierarchy decides its own tokens, for a round that has `chance`.

    With shared noise, or at temperature 0, it takes the tokens that it expects above; otherwise it draws by the laws of
    its own sampling (None: that of above).
    """
    above = chance.sampling
    if chance.noise is not None:
        return ChosenTokens(above, chance.noise.field, chance.generator)
    return judge(above if above.greedy else sampling or above, verifier, chance.generator)


def settled(verifier: str, made_for: str) -> str:
    """The verifier that is meant: `auto` is the one that trees are made for."""
    return made_for if verifier == AUTO else verifier


def check_verifier(verifier: str) -> None:
    """Raises ValueError for a verifier that does not exist."""
    if verifier not in VERIFIERS:
        raise ValueError(f"unknown verifier '{verifier}': choose one of {', '.join(VERIFIERS)}")


@dataclass(frozen=True)
class IndependentDraws:
    """Draft and target draw on their own; a rule redistributes what the draft drew."""

    sampling: Sampling
    verifier: str  # a name in hsd_verify.VERIFIERS
    generator: torch.Generator | None

    def token(self, logits: Tensor, position: int, context: Context | None = None) -> int:
        return drawn_token(self.laws(logits[None], _alone(context))[0], self.generator)

    def verdict(self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None) -> Verdict:
        def form_laws(nodes: Tensor | slice) -> Tensor:
            return self.laws(logits[nodes], _contexts(self.sampling, context, tree, nodes))

        return hsd_verify.verify(tree, form_laws, self.verifier, self.generator)

    def chance(self, position: int) -> Chance:
        return Chance(self.sampling.for_drafts, self.generator)

    def laws(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> Tensor:
        return self.sampling.laws(logits, contexts)


@dataclass(frozen=True)
class ChosenTokens:
    """`argmax z / T + g` after every text, g the answer's noise; at temperature 0 `argmax z`."""

    sampling: Sampling
    field: NoiseField | None  # None at temperature 0
    generator: torch.Generator | None  # of trees that are drawn: nothing that the field is made of

    def token(self, logits: Tensor, position: int, context: Context | None = None) -> int:
        shaped = self.sampling.shaped(logits[None], _alone(context))[0]
        if self.field is None:
            return int(greedy_tokens(shaped))
        return int(self.field.best(self.sampling.scores(shaped), position))

    def verdict(self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None) -> Verdict:
        if self.field is None and not self.sampling.shapes:
            return hsd_verify.verify_chosen(tree, greedy_tokens(logits))
        chosen = self.along_path if logits.is_cpu else self.of_all_nodes
        return hsd_verify.verify_chosen(tree, chosen(tree, logits, position, context))

    def along_path(
        self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None
    ) -> Callable[[int], int]:
        """The token after a node, found when it is asked for: few nodes are, and a CPU waits for nothing."""

        def chosen(node: int) -> int:
            text = context.after(tree, [node])[0] if context is not None else None
            return self.token(logits[node], position + tree.depth[node], text)

        return chosen

    def of_all_nodes(self, tree: DraftTree, logits: Tensor, position: int, context: Context | None = None) -> Tensor:
        """The tokens after all nodes (N,) at once: an accelerator is waited for once and not at every node."""
        shaped = self.sampling.shaped(logits, _contexts(self.sampling, context, tree, slice(None)))
        if self.field is None:
            return greedy_tokens(shaped)
        noise = self.field.rows([position + d for d in range(max(tree.depth) + 1)], logits.shape[-1])  # (D + 1, V)
        by_node = noise[send(torch.tensor(tree.depth), noise.device)]  # (N, V)
        return (self.sampling.scores(shaped) + by_node).argmax(-1)

    def chance(self, position: int) -> Chance:
        noise = Noise(self.field, position) if self.field is not None else None
        return Chance(self.sampling.for_drafts, self.generator, noise=noise)

    def laws(self, logits: Tensor, contexts: Sequence[Context] | None = None) -> None:
        return None


def _alone(context: Context | None) -> list[Context] | None:
    return None if context is None else [context]


def _contexts(
    sampling: Sampling, context: Context | None, tree: DraftTree, nodes: Tensor | slice
) -> list[Context] | None:
    """The texts behind nodes of a tree, where the sampling reads them."""
    if context is None or not sampling.reads_text:
        return None
    every = range(tree.num_nodes)
    return context.after(tree, every[nodes] if isinstance(nodes, slice) else nodes.tolist())

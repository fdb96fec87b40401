"""A round in small numbers: what is kept of it for the picture of its tree.

Letters: N tree nodes including the root, V vocabulary.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from eagle.decode import Round, Step

LINE_BREAK, SPACE, TAB = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\N{MIDDLE DOT}", "\N{RIGHTWARDS ARROW TO BAR}"
VISIBLE = str.maketrans({"\n": LINE_BREAK, " ": SPACE, "\t": TAB, "\r": ""})


@dataclass(frozen=True)
class SeenRound:
    """Nodes of one draft tree and what became of them; no tensors."""

    words: tuple[str, ...]  # (N,) tokens as text, spaces and line breaks made visible; the root's first
    parents: tuple[int, ...]  # (N,) -1 for the root
    probs: tuple[float, ...]  # (N,) of a node's token under the target's law after its parent; 1 for the root
    drawn: tuple[bool, ...]  # (N,) at random; else placed by the draft's probabilities
    path: tuple[int, ...]  # accepted nodes, below the root
    bonus: str | None  # the token that the verifier added; None where the answer ended before it
    at_one: bool  # probs are those of temperature 1, where the answer's own are 0 or 1: at temperature 0

    @property
    def num_drafted(self) -> int:
        return len(self.words) - 1

    @property
    def accepted_text(self) -> str:
        return "".join(self.words[node] for node in self.path)


def seen_round(step: Step, tokenizer: PreTrainedTokenizerBase) -> SeenRound | None:
    """None for a step without a round, the prefill's."""
    if step.round is None:
        return None
    tree = step.round.tree
    has_bonus = len(step.tokens) > step.num_accepted
    return SeenRound(
        words=tuple(visible(token, tokenizer) for token in tree.token_list),
        parents=tree.parent_list,
        probs=_probs(step.round),
        drawn=tree.sampled_list,
        path=step.round.path,
        bonus=visible(step.tokens[-1], tokenizer) if has_bonus else None,
        at_one=step.round.judge.sampling.greedy,
    )


def visible(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token as text in which nothing is lost to the eye."""
    return str(tokenizer.decode([token])).translate(VISIBLE)


def _probs(seen: Round) -> tuple[float, ...]:
    greedy = seen.judge.sampling.greedy
    laws = seen.logits.float().softmax(-1) if greedy else seen.target_probs  # (N, V)
    return (1.0, *seen.tree.entries(laws).tolist()[1:])

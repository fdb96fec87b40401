"""What one answer is decoded with, as the page's fields have it."""

from dataclasses import dataclass, replace

from eagle.decode import DecodeOptions
from eagle.judging import AUTO
from eagle.options import option
from eagle.trees import TreePolicy, parse_policy

LONGEST_ANSWER = 8192  # tokens that a browser may ask for


@dataclass(frozen=True)
class AnswerSettings:
    """Raises ValueError at construction for values outside their range."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all tokens
    top_p: float = 1.0  # 1: all tokens
    verifier: str = AUTO
    tree: str = "auto"  # as --tree has it
    seed: int = 0  # of every answer anew: the same question gets the same answer
    system: str = option("", "system prompt; empty: the template's own", may_be_empty=True)
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.max_new_tokens > LONGEST_ANSWER:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, this page answers in at most {LONGEST_ANSWER}")
        _ = self.over(DecodeOptions()), self.policy

    def over(self, base: DecodeOptions) -> DecodeOptions:
        """Options of an answer: those of `base` with what the page has fields for in their place."""
        sampling = replace(base.sampling, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
        return replace(
            base, sampling=sampling, max_new_tokens=self.max_new_tokens, verifier=self.verifier, seed=self.seed
        )

    @property
    def policy(self) -> TreePolicy:
        return parse_policy(self.tree)

"""What the planner says of published numbers: 70B <- 8B and 405B <- 8B, with the 8B's own EAGLE-3 head below.

    python -m eagle.hierarchy.computed_table

Computed, nothing here was measured by this project. The assumptions:

- decoding is bound by memory: a plain pass costs in proportion to the parameters (70, 405 and 8 billion). The unit of
  cost is a plain pass of the target;
- a pass of the target over n draft tokens costs 1 + 0.005 n;
- the head on the 8B has 6.13 tokens a pass and is 4.40 times as fast as plain decoding (EAGLE-3, arXiv 2503.01840,
  LLaMA-3.1-8B, MT-Bench, temperature 0). So a round of it costs 6.13 / 4.40 plain passes; what is more than one pass is
  put on the draft. Its drafts are 8 deep and survive geometrically;
- a token of the 8B is accepted by the target with alpha, whatever came before. No publication has the curve; alpha is
  what has to be measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from eagle.hierarchy.candidates import Acceptance, Model, Proposer
from eagle.hierarchy.curves import CostCurve, Survival, alpha_of
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.refinement import Candidate, ranked

DRAFT_BILLIONS = 8.0
PASS_SLOPE = 0.005
HEAD_TOKENS, HEAD_SPEEDUP, HEAD_DEPTH = 6.13, 4.40, 8
HEAD_ON_70B = 4.1  # times plain decoding, published for a head on the 70B itself
LONGEST = 32  # window of the assumed curve
MAX_BUFFER = 24
ALPHAS = (0.80, 0.84, 0.86, 0.87, 0.88, 0.90)
HALVINGS = 14  # of alpha: to 6e-5


@dataclass(frozen=True)
class Row:
    """Speed-ups over plain decoding at one alpha."""

    target: str
    alpha: float
    single: Candidate  # target <- 8B
    hierarchy: Candidate  # target <- 8B <- head


def published_profile(target_billions: float, alpha: float) -> Profile:
    """The profile of these assumptions, in plain passes of the target."""
    plain = DRAFT_BILLIONS / target_billions
    head_alpha = alpha_of(HEAD_TOKENS - 1, HEAD_DEPTH)
    return Profile(
        models=(
            Model("8B", plain, CostCurve((0,), (plain,))),
            Model(f"{target_billions:g}B", 1.0, CostCurve((0, 100), (1.0, 1 + 100 * PASS_SLOPE))),
        ),
        acceptances=(
            Acceptance("8B", "head", assumed=Survival.geometric(head_alpha, HEAD_DEPTH).reached),
            Acceptance(f"{target_billions:g}B", "8B", assumed=Survival.geometric(alpha, LONGEST).reached),
        ),
        proposers=(Proposer("head", CostCurve((0,), ((HEAD_TOKENS / HEAD_SPEEDUP - 1) * plain,)), readers=("8B",)),),
    )


def row(target_billions: float, alpha: float) -> Row:
    profile = published_profile(target_billions, alpha)
    found = {len(one.levels): one for one in reversed(ranked(profile, MAX_BUFFER))}  # the fastest of each depth
    return Row(profile.target.name, alpha, found[1], found[2])


def break_even_with_head(target_billions: float = 70.0, speedup: float = HEAD_ON_70B) -> float:
    """The alpha below which the hierarchy is slower than a head on the target itself with this speed-up."""
    low, high = 0.5, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if 1 / row(target_billions, middle).hierarchy.ms > speedup else (middle, high)
    return (low + high) / 2


def markdown(rows: Iterable[Row]) -> list[str]:
    """Lines of the table in docs/hierarchy.md."""
    head = ["| computed: target | alpha | target <- 8B | target <- 8B <- head | gain |", "|---|---|---|---|---|"]
    return head + [_line(one) for one in rows]


def _line(one: Row) -> str:
    single, hierarchy = one.single.levels, one.hierarchy.levels
    cells = (
        one.target,
        f"{one.alpha:.2f}",
        f"{1 / one.single.ms:.2f}x (window {single[0].buffer})",
        f"{1 / one.hierarchy.ms:.2f}x (buffer {hierarchy[1].buffer})",
        f"{one.single.ms / one.hierarchy.ms:.2f}x",
    )
    return f"| {' | '.join(cells)} |"


def all_rows() -> list[Row]:
    return [row(billions, alpha) for billions in (70.0, 405.0) for alpha in ALPHAS]


if __name__ == "__main__":
    print("\n".join(markdown(all_rows())))
    print(f"computed: a head on the 70B itself ({HEAD_ON_70B}x) is faster below alpha {break_even_with_head():.3f}")

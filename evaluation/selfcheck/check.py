"""Is the drafting and verification that is about to be measured lossless? Asked before measuring, in two ways.

A rule has a law on every tree, which is enumerated, and texts whose law is counted. Coupled decoding has neither choice
nor law once the noise is fixed: its texts must be plain decoding's, and over many seeds have the target's law.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eagle.judging import COUPLED
from evaluation.arms import TreeAndVerifier
from evaluation.selfcheck.counting import check_by_chi_square, check_equality
from evaluation.selfcheck.enumeration import Outcome, check_by_enumeration


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one arm."""

    drafting: str  # TREE+VERIFIER
    temperature: float
    name: str
    passed: bool | None  # None: could not be decided this way
    finding: str


def check_lossless(spec: str, drafting: TreeAndVerifier, temperature: float) -> list[Check]:
    """All checks of `TREE+VERIFIER` as it is planned, at one temperature."""
    ways = _ways(drafting.verifier == COUPLED, temperature == 0)
    return [Check(spec, temperature, name, *way(drafting, temperature)) for name, way in ways.items()]


def _ways(is_coupled: bool, is_greedy: bool) -> dict[str, Callable[[TreeAndVerifier, float], Outcome]]:
    if is_coupled:
        return {"equality": check_equality, **({} if is_greedy else {"counting": check_by_chi_square})}
    return {"enumeration": check_by_enumeration, "counting": check_equality if is_greedy else check_by_chi_square}


def refuse_failed(checks: Iterable[Check]) -> None:
    """Raises ValueError that lists the checks that failed."""
    failed = [
        f"{c.drafting} at temperature {c.temperature:g}, {c.name}: {c.finding}" for c in checks if c.passed is False
    ]
    if failed:
        raise ValueError("the self-check failed, nothing was measured: " + "; ".join(failed))

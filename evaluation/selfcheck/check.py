"""Is the drafting and verification that is about to be measured lossless? Asked before measuring, in two ways."""

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.arms import TreeAndVerifier
from evaluation.selfcheck.counting import check_by_chi_square, check_greedy
from evaluation.selfcheck.enumeration import check_by_enumeration


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one arm."""

    drafting: str  # TREE+VERIFIER
    temperature: float
    name: str
    passed: bool | None  # None: could not be decided this way
    finding: str


def check_lossless(spec: str, drafting: TreeAndVerifier, temperature: float) -> list[Check]:
    """Both checks of `TREE+VERIFIER` as it is planned, at one temperature."""
    counting = check_greedy if temperature == 0 else check_by_chi_square
    outcomes = {"enumeration": check_by_enumeration(drafting, temperature), "counting": counting(drafting, temperature)}
    return [Check(spec, temperature, name, *outcome) for name, outcome in outcomes.items()]


def refuse_failed(checks: Iterable[Check]) -> None:
    """Raises ValueError that lists the checks that failed."""
    failed = [
        f"{c.drafting} at temperature {c.temperature:g}, {c.name}: {c.finding}" for c in checks if c.passed is False
    ]
    if failed:
        raise ValueError("the self-check failed, nothing was measured: " + "; ".join(failed))

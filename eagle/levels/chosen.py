"""The hierarchy that a command drafts with: named by hand, or by a plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.hierarchy.plans import Choice, Plan
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Hierarchy
from eagle.hierarchy.watch import Watch
from eagle.levels.building import build_drafter, hand_made
from eagle.levels.loaded import Candidates
from eagle.levels.opening import Opening, open_again, open_candidates, read_plan
from eagle.levels.planned import PlannedDrafter
from eagle.levels.specs import TARGET

BOTH = "--hierarchy and --level are given: a plan names its own levels, leave one of them out"


@dataclass(frozen=True)
class ChosenLevels:
    """Models and levels; with a plan, what it predicts."""

    candidates: Candidates
    levels: Hierarchy
    plan: Plan | None = None
    profile: Profile | None = None

    @property
    def told(self) -> str:
        """As `target <- small (8) <- small.head@8 (6)`."""
        return Choice(self.levels).told(TARGET)

    @property
    def single(self) -> Hierarchy:
        """The best single draft. Raises ValueError where no plan says which."""
        if self.plan is None or self.plan.single is None:
            raise ValueError("the best single draft is a plan's: pass --hierarchy RUN/plan.json")
        return self.plan.single.levels

    @cached_property
    def watch(self) -> Watch | None:
        """Of all drafters that `measured` made."""
        return None if self.plan is None else Watch(self.plan)

    def drafter(self, told: Callable[[str], None]) -> Drafter:
        """One that falls back where its plan no longer pays, and says so."""
        if self.plan is None:
            return build_drafter(self.candidates, self.levels)
        return PlannedDrafter(self.plan, self.candidates, self.profile, told)

    def measured(self) -> Drafter:
        """One that keeps to its levels whatever they accept; a plan's windows are counted in `watch`."""
        if self.plan is None:
            return build_drafter(self.candidates, self.levels)
        return PlannedDrafter(self.plan, self.candidates, watch=self.watch)


def choose_levels(
    hierarchy: str | Path | None,
    levels: Sequence[str],
    opening: Opening,
    target: Target | None = None,
    beside: bool = False,
) -> ChosenLevels:
    """What `--hierarchy` or `--level` names, loaded; `opening` says of what else, `target` may be loaded already.

    `beside`: a lookup stands beside the lowest head of levels that are named by hand. Raises ValueError for both at
    once, for another target than the plan's, and as loading does.
    """
    if levels and hierarchy is not None:
        raise ValueError(BOTH)
    if hierarchy is not None and beside:
        raise ValueError("--lookup and --hierarchy are given: a plan says whether there is a lookup, leave it out")
    if hierarchy is not None:
        plan, profile = read_plan(Path(hierarchy))
        check_same_target(plan, opening.source)
        return ChosenLevels(open_again(plan, opening.device, target), plan.levels, plan, profile)
    chosen = hand_made(tuple(levels), opening.has_head, beside)
    return ChosenLevels(open_candidates(opening, levels, target), chosen)


def check_same_target(plan: Plan, source: str | None) -> None:
    """Raises ValueError for a plan of another target than the one that is named."""
    planned = plan.provenance.get("target")
    if source is not None and str(Path(source).absolute()) != planned and source != planned:
        raise ValueError(f"--target is '{source}', the plan is for {planned or 'the packaged target'}: leave it out")

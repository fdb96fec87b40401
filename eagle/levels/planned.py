"""A plan while it runs: every window is counted, and where the acceptance no longer pays, a simpler plan takes over.

Falling back happens between two rounds and is lossless: drafts never change the law of the text. The new hierarchy
reads the text from its beginning, in one pass a level; for a head on the target the features of the text are kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eagle.chance import Chance
from eagle.drafters.none import NoDrafter
from eagle.drafters.protocol import Drafter, check_truncation
from eagle.hierarchy.planning import plan_of
from eagle.hierarchy.plans import Plan
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Hierarchy
from eagle.hierarchy.watch import Compared, Fallback, Watch
from eagle.levels.building import build_drafter, levels_of
from eagle.levels.loaded import Candidates, HeadDraft
from eagle.levels.specs import TARGET
from hsd_verify import DraftTree


class PlannedDrafter:
    """The drafter of a plan. `told` hears of a fallback once it has happened.

    With the profile that the plan was made from, what is fallen back to is watched in its turn. Raises ValueError for a
    plan whose levels are not among the candidates.
    """

    def __init__(
        self,
        plan: Plan,
        candidates: Candidates,
        profile: Profile | None = None,
        told: Callable[[str], None] = lambda text: None,
        watch: Watch | None = None,
    ):
        """
        watch: counts for somebody else, who measures the plan as it is: nothing is fallen back to.
        """
        self.candidates = candidates
        self._profile, self._told, self._counts_for = profile, told, watch
        self._text: list[int] = []
        self._features: list[Tensor] = []  # of the text, one run a call; only where a head on the target may need them
        self._start(plan)

    def _start(self, plan: Plan) -> None:
        self.plan, self.watch = plan, self._counts_for or Watch(plan)
        self._watched = {one.pair for one in plan.break_evens}
        self.drafter = drafter_of(self.candidates, plan.levels, self._count)
        self._keeps = self._counts_for is None and any(
            one.fallback is not None and is_head_of_target(one.fallback.levels) for one in plan.break_evens
        )

    @property
    def num_known(self) -> int:
        return len(self._text)

    @property
    def verifier(self) -> str:
        return self.drafter.verifier

    def observe(self, tokens: Tensor, features: Tensor | None = None) -> None:
        """See `Drafter.observe`."""
        self._text += tokens.tolist()
        if self._keeps and features is not None:
            self._features.append(features)
        self.drafter.observe(tokens, features)

    def propose(self, chance: Chance, max_depth: int) -> DraftTree:
        """See `Drafter.propose`. Where the last round decided it, a simpler plan proposes from now on."""
        if self._counts_for is None and (fallback := self.watch.fallback()) is not None:
            self._fall_back(fallback)
        return self.drafter.propose(chance, max_depth)

    def truncate(self, num_tokens: int) -> None:
        """See `Drafter.truncate`."""
        check_truncation(num_tokens, self.num_known)
        self._text = self._text[:num_tokens]
        if self._features:
            self._features = [torch.cat(self._features)[: max(num_tokens - 1, 0)]]
        self.drafter.truncate(num_tokens)

    def compared(self) -> list[Compared]:
        """Predicted against measured, of every pair."""
        return self.watch.compared()

    def _count(self, reader: str, source: str, window: int, kept: int) -> None:
        if (reader, source) in self._watched:
            self.watch.count(reader, source, window, kept)

    def _fall_back(self, fallback: Fallback) -> None:
        self._start(self._simpler(fallback))
        device = self.candidates.target.device
        features = torch.cat(self._features) if self._features else None
        if is_head_of_target(self.plan.levels) and features is None:
            self.drafter = NoDrafter(device)  # nothing was kept: decodes plainly
        self.drafter.observe(torch.tensor(self._text), features)
        self._features = [] if features is None or not self._keeps else [features]
        self._told(fallback.told(TARGET))

    def _simpler(self, fallback: Fallback) -> Plan:
        levels, ms = fallback.choice.levels, fallback.choice.ms_per_token
        if self._profile is not None:
            return plan_of(self._profile, levels)
        return Plan(self.plan.target, levels, ms, passes=(1.0,) * len(levels), plain_ms=self.plan.plain_ms)


def drafter_of(candidates: Candidates, levels: Hierarchy, count: Callable[[str, str, int, int], None]) -> Drafter:
    """Of the levels of a plan; without any, nothing is proposed."""
    if not levels:
        return NoDrafter(candidates.target.device)
    return build_drafter(candidates, levels, lambda reader, source: lambda n, a: count(reader, source, n, a))


def is_head_of_target(levels: Hierarchy) -> bool:
    """Whether such a hierarchy is the target's own head, which needs features of the whole text."""
    head = HeadDraft.of(levels[0].name) if len(levels) == 1 else None
    return head is not None and head.model == TARGET


def level_report(drafter: Drafter) -> list[str]:
    """What every level did, from the top, and predicted against measured where a plan runs: lines of text."""
    lines = []
    for level in levels_of(drafter):
        stats = level.stats
        ms = stats.milliseconds / max(stats.passes, 1)
        lines.append(
            f"level {level.name}: {stats.passes} passes, {ms:.1f} ms each, "
            f"{stats.tokens / max(stats.windows, 1):.1f} tokens a window, {stats.kept_share:.2f} of them kept"
        )
    if isinstance(drafter, PlannedDrafter):
        lines += [
            f"{one.source} by {one.reader}: acceptance a token {one.running.alpha:.2f} (predicted "
            f"{one.predicted.alpha:.2f}), {one.rounds} rounds"
            for one in drafter.compared()
        ]
    return lines

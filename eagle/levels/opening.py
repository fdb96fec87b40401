"""Target, head and levels by name, as commands and saved plans have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eagle.dtypes import dtype_name, named_dtype
from eagle.engine.target import Target
from eagle.hierarchy.plans import Plan
from eagle.hierarchy.profiles import Profile
from eagle.levels.loaded import Candidates, load_candidates
from eagle.levels.specs import parse_levels
from eagle.loading import load_head, load_target

NO_HEAD = "without"
PROFILE = "profile.json"  # beside a plan


@dataclass(frozen=True)
class Opening:
    """What a target is loaded from, and how."""

    source: str | None = None  # None: the packaged one
    head: str | None = None  # None: the shipped one, which only the packaged target has; "without": none
    dtype: torch.dtype | None = None
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # others of `load_target`

    @property
    def has_head(self) -> bool:
        return self.head != NO_HEAD and (self.head is not None or self.source is None)


def open_candidates(opening: Opening, texts: Sequence[str], target: Target | None = None) -> Candidates:
    """Raises as `load_target`, `load_head` and `load_candidates`; levels are read before anything is loaded.

    `target`: loaded already.
    """
    parse_levels(texts)
    target = target or load_target(opening.source, opening.dtype, opening.device, **opening.options)
    head = load_head(opening.head, target) if opening.has_head else None
    return load_candidates(target, texts, head, opening.source)


def described(opening: Opening, candidates: Candidates) -> dict[str, Any]:
    """What `open_again` needs, for a profile's provenance. Local paths become absolute: plans are kept elsewhere."""
    return {
        "target": _absolute(opening.source),
        "head": _absolute(opening.head),
        "levels": list(candidates.texts),
        "dtype": dtype_name(candidates.target.dtype),
        "loading": dict(opening.options),
    }


def open_again(plan: Plan, device: str | None = None, target: Target | None = None) -> Candidates:
    """The models that a plan was made with. Raises ValueError where its provenance does not name them."""
    known = plan.provenance
    if missing := [name for name in ("target", "head", "levels", "dtype", "loading") if name not in known]:
        raise ValueError(
            f"the plan does not say which {missing[0]} it was made with: pass candidates, or plan from a profile "
            "that `eagle-hsd hierarchy profile` wrote"
        )
    opening = Opening(known["target"], known["head"], named_dtype(known["dtype"]), device, known["loading"])
    return open_candidates(opening, known["levels"], target)


def read_plan(path: Path) -> tuple[Plan, Profile | None]:
    """A plan, and the profile that lies beside it. Raises ValueError or OSError that names the file."""
    beside = path.with_name(PROFILE)
    return Plan.read(path), Profile.read(beside) if beside.is_file() else None


def _absolute(source: str | None) -> str | None:
    return str(Path(source).absolute()) if source is not None and Path(source).exists() else source

"""Target, head and levels by name, as commands and saved plans have them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eagle.engine.target import Target
from eagle.hierarchy.plans import Plan
from eagle.hierarchy.profiles import Profile
from eagle.levels.candidates import Candidates, load_candidates
from eagle.levels.specs import parse_levels
from eagle.loading import load_head, load_target

NO_HEAD = "none"
PROFILE = "profile.json"  # beside a plan


def open_candidates(
    source: str | None,
    head: str | None,
    texts: Sequence[str],
    dtype: torch.dtype | None = None,
    device: str | None = None,
    target: Target | None = None,
    **loading: Any,
) -> Candidates:
    """`head` None: the shipped one, which only the packaged target has; "none": without. `target`: loaded already.

    Raises as `load_target`, `load_head` and `load_candidates`; levels are read before anything is loaded.
    """
    parse_levels(texts)
    target = target or load_target(source, dtype, device, **loading)
    has_head = head != NO_HEAD and (head is not None or source is None)
    return load_candidates(target, texts, load_head(head, target) if has_head else None, source)


def described(source: str | None, head: str | None, candidates: Candidates) -> dict[str, Any]:
    """What `open_again` needs, for a profile's provenance. Local paths become absolute: plans are kept elsewhere."""
    return {
        "target": _absolute(source),
        "head": _absolute(head),
        "levels": list(candidates.texts),
        "dtype": str(candidates.target.dtype).removeprefix("torch."),
    }


def open_again(plan: Plan, device: str | None = None, target: Target | None = None) -> Candidates:
    """The models that a plan was made with. Raises ValueError where its provenance does not name them."""
    known: Mapping[str, Any] = plan.provenance
    if missing := [name for name in ("target", "head", "levels", "dtype") if name not in known]:
        raise ValueError(
            f"the plan does not say which {missing[0]} it was made with: pass candidates, or plan from a profile "
            "that `eagle-hsd hierarchy profile` wrote"
        )
    dtype = getattr(torch, str(known["dtype"]))
    return open_candidates(known["target"], known["head"], known["levels"], dtype, device, target)


def read_plan(path: Path) -> tuple[Plan, Profile | None]:
    """A plan, and the profile that lies beside it. Raises ValueError or OSError that names the file."""
    beside = path.with_name(PROFILE)
    return Plan.read(path), Profile.read(beside) if beside.is_file() else None


def _absolute(source: str | None) -> str | None:
    return str(Path(source).absolute()) if source is not None and Path(source).exists() else source

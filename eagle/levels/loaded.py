"""Models, heads and copies that a hierarchy can be made of, loaded and checked against the target.

A model drafts by itself, token by token, or with its head; the target's own head drafts for the target, or for copies
of it. What drafts without being a level has a name of its own: `small.head@16` is the head of `small` with trees of 16
nodes, `small.head` the same with the sizes that pay alone, `small.head+lookup@16` has a lookup beside it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from eagle.drafters.head import DraftHead
from eagle.engine.target import Target
from eagle.levels.memory import check_memory, weight_bytes, with_packed
from eagle.levels.specs import HEAD, HEAD_NODES, LOOKUP, PRECISIONS, TARGET, LookupSpec, ModelSpec, parse_levels
from eagle.levels.tokenizers import check_same_tokens
from eagle.loading import find_model, load_head, load_target

HEAD_PART, BESIDE = f".{HEAD}", f"+{LOOKUP}"
HEAD_NAME = re.compile(r"(?P<model>[\w-]+)\.head(?P<beside>\+lookup)?(@(?P<nodes>\d+))?")
FP8_CAPABILITY = (8, 9)
BYTES = {"int8": 1.0, "fp8": 1.0, "int4": 0.5}  # a weight, in those precisions


@dataclass(frozen=True)
class Member:
    """A model that can be a level."""

    model: Target
    head: DraftHead | None
    num_tokens: int  # rows of its vocabulary behind them are padding
    nodes: tuple[int, ...] = HEAD_NODES


@dataclass(frozen=True)
class Candidates:
    """Everything beside the target, from the largest model down, as it was named."""

    target: Target
    head: DraftHead | None = None  # of the target
    members: dict[str, Member] = field(default_factory=dict)
    lookup: LookupSpec | None = None
    texts: tuple[str, ...] = ()  # the levels as they were written
    nodes: tuple[int, ...] = HEAD_NODES  # sizes of trees of the target's head that are profiled

    def model(self, name: str) -> Target:
        """The target or a level. Raises ValueError for a name of none."""
        return self.target if name == TARGET else self.member(name).model

    def member(self, name: str) -> Member:
        if name not in self.members:
            raise ValueError(f"no level is called '{name}': there are {', '.join(self.members) or 'none'}")
        return self.members[name]

    def head_of(self, name: str) -> DraftHead:
        """Raises ValueError for a model without one."""
        head = self.head if name == TARGET else self.member(name).head
        if head is None:
            flag = "--head" if name == TARGET else f"--level {name}=..,head=DIR"
            raise ValueError(f"{name} has no draft head: name one with {flag}")
        return head

    def readers(self) -> list[str]:
        """Models that can verify, from the smallest."""
        return [*reversed(self.members), TARGET]

    def heads(self) -> Iterator["HeadDraft"]:
        """Every proposer that is a head; where there is a lookup, with it beside them and without."""
        for name in self.readers():
            has_head = (self.head if name == TARGET else self.members[name].head) is not None
            for nodes in (self.nodes if name == TARGET else self.members[name].nodes) if has_head else ():
                yield from (HeadDraft(name, nodes, beside) for beside in (False, True)[: 1 + bool(self.lookup)])

    def check_room(self, num_tokens: int) -> None:
        """Raises ValueError where a text of so many tokens does not fit into the context of a level."""
        for name, member in self.members.items():
            limit = member.model.context_limit
            if num_tokens >= limit:
                raise ValueError(
                    f"level '{name}' was made for {limit:,} tokens, the prompt has {num_tokens:,}: leave the level "
                    "out, or shorten the prompt"
                )


@dataclass(frozen=True)
class HeadDraft:
    """The head of a model as level 0."""

    model: str
    nodes: int | None = None  # of its trees, with the root; None: those that pay
    beside: bool = False  # a lookup stands beside it

    @property
    def name(self) -> str:
        return self.model + HEAD_PART + (BESIDE if self.beside else "") + (f"@{self.nodes}" if self.nodes else "")

    @classmethod
    def of(cls, name: str) -> "HeadDraft | None":
        """From its name; None for a name of another kind."""
        found = HEAD_NAME.fullmatch(name)
        return found and cls(
            found["model"], int(found["nodes"]) if found["nodes"] else None, found["beside"] is not None
        )


def load_candidates(
    target: Target, texts: Sequence[str], head: DraftHead | None = None, source: str | Path | None = None
) -> Candidates:
    """Levels as text, see `eagle.levels.specs`. Models get the target's device and dtype and are compiled where it is;
    `source` is what the target was loaded from, which copies of it are loaded from again.

    Raises ValueError for what is no level, another tokenizer, and a model that does not fit into memory; and as
    `load_target` and `load_head`.
    """
    specs = parse_levels(texts)
    members = {spec.name: _load(spec, target, head, source) for spec in specs if isinstance(spec, ModelSpec)}
    lookup = next((spec for spec in specs if isinstance(spec, LookupSpec)), None)
    return Candidates(target, head, members, lookup, tuple(texts))


def _load(spec: ModelSpec, target: Target, head: DraftHead | None, source: str | Path | None) -> Member:
    if spec.source is None:
        return _copy(spec, target, head, source)
    needed = weight_bytes(spec.source, find_model(spec.source), target.dtype.itemsize)
    check_memory(spec.name, with_packed(needed, target.dtype, target.device), target.device)
    model = load_target(spec.source, target.dtype, target.device, compile=target.compile_mode)
    num_tokens = check_same_tokens(target, model, spec.name)
    own = load_head(spec.head, model) if spec.head else None
    return Member(model, own, num_tokens, spec.nodes)


def _copy(spec: ModelSpec, target: Target, head: DraftHead | None, source: str | Path | None) -> Member:
    """The target's weights once more, in a lower precision. Features are its own, so its head is bound to it anew."""
    assert spec.precision is not None, "a level without a source is a copy"
    check_precision(spec.precision, target.device)
    check_memory(spec.name, weight_bytes(target.name, find_model(source), BYTES[spec.precision]), target.device)
    quantization = PRECISIONS[spec.precision][target.device.type != "cpu"]
    model = load_target(source, target.dtype, target.device, quantization=quantization, compile=target.compile_mode)
    if head is not None:
        model.read_layers(head.config.feature_layers)
    own = load_head(spec.head, model) if spec.head else head
    return Member(model, own, check_same_tokens(target, model, spec.name), spec.nodes)


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ValueError for one that the device does not multiply."""
    if precision != "fp8":
        return
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < FP8_CAPABILITY:
        found = f"{device} has " + ("none" if capability is None else ".".join(map(str, capability)))
        needed = ".".join(map(str, FP8_CAPABILITY))
        raise ValueError(f"copy=fp8 needs a GPU of compute capability {needed}, {found}: take copy=int8 or copy=int4")

"""`model.generate(..)` of transformers that drafts and verifies: every argument as before, the text as before.

    accelerate(model, "runs/head")
    model.generate(**inputs, max_new_tokens=100)          # greedy: the very tokens; sampling: the very law

The model gets a class that stands below its own and differs in one loop, transformers' `_sample`: what `generate` does
before it (defaults, lengths, processors, stopping criteria, checks) is transformers' own code, with its own results.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.lookup import LookupDrafter
from eagle.engine.target import Target
from eagle.hf.drafted_rows import generate_rows
from eagle.hf.unsupported import check_arguments, check_loop, check_mode, config_fields
from eagle.judging import AUTO, check_verifier
from eagle.loading import load_head
from eagle.planner import plan
from eagle.trees import AutoTree, TreePolicy

HANDLE = "_eagle"  # where a model keeps what it drafts with


def accelerate(
    model: Any,
    head: DraftHead | str | Path | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    policy: TreePolicy | None = None,
    *,
    lookup: bool = False,
    verifier: str = AUTO,
    rows: int = 1,
) -> Any:
    """Make `model.generate` draft with a head and verify; returns the model, which is changed in place.

    head: loaded, a directory or a Hugging Face id; None: no drafting, the same loop token by token.
    tokenizer: for `stop_strings` of calls that bring none.
    policy, lookup, verifier: as in `Chat`.
    rows: of the batches that calls will have, which trees are then sized for; others are decoded too.

    Rows of a batch are decoded side by side and share passes. Raises ValueError for a model that cannot score trees, a
    head of another model, and one that was accelerated before.
    """
    check_verifier_name(verifier)
    if is_accelerated(model):
        raise ValueError("this model drafts already: call release(model) first")
    if "generate" in vars(model):
        raise ValueError("this model's generate was replaced by another one: load it without custom_generate")
    target = Target(model, tokenizer)
    if head is not None:
        target.check_scores_trees()
    made = load_head(head, target) if isinstance(head, str | Path) else head
    planned = plan(policy or AutoTree(), target, made, may_be_plain=not lookup, rows=rows) if made is not None else None
    setattr(model, HANDLE, Drafting(target, made, planned, lookup, verifier))
    kind = type(model)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    model.__class__ = type(kind.__name__, (_Drafted, kind), names)  # saved and printed under its own name
    return model


def release(model: Any) -> Any:
    """Undo `accelerate`."""
    if is_accelerated(model):
        model.__class__ = type(model).__mro__[2]
        delattr(model, HANDLE)
    return model


def is_accelerated(model: Any) -> bool:
    return isinstance(model, _Drafted)


def check_verifier_name(verifier: str) -> None:
    if verifier != AUTO:
        check_verifier(verifier)


class Drafting:
    """What a model drafts with. Every call has a session of its own, so that threads may share the model."""

    def __init__(self, target: Target, head: DraftHead | None, policy: TreePolicy | None, lookup: bool, verifier: str):
        self.target, self.verifier = target, verifier
        self._head, self._policy, self._lookup = head, policy, lookup

    def drafter(self) -> EagleDrafter | None:
        """A fresh one, for one sequence at a time."""
        if self._head is None or self._policy is None:
            return None
        return EagleDrafter(self._head, self.target.embed, self._policy, LookupDrafter() if self._lookup else None)


class _Drafted:
    """Stands before a model's own class."""

    def generate(self: Any, inputs: Any = None, generation_config: GenerationConfig | None = None, **told: Any) -> Any:
        check_arguments(told)
        config = effective_config(self, generation_config, told)
        check_mode(config, told.get("assistant_model"))
        if config.stop_strings is not None and told.get("tokenizer") is None:
            told["tokenizer"] = getattr(self, HANDLE).target.tokenizer
        return super().generate(inputs, generation_config, **told)  # type: ignore[misc]

    def _sample(
        self: Any,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        check_loop(generation_config, synced_gpus, model_kwargs)
        return generate_rows(
            getattr(self, HANDLE),
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            model_kwargs.get("attention_mask"),
            streamer,
        )


def effective_config(model: PreTrainedModel, given: GenerationConfig | None, told: dict[str, Any]) -> GenerationConfig:
    """The configuration that `generate` will go by: the model's, the call's, and its keyword arguments."""
    names = config_fields()
    config: GenerationConfig = deepcopy(model.generation_config)
    for source in ({} if given is None else given.to_dict(), told):
        for name, value in source.items():
            if name in names and value is not None:
                setattr(config, name, value)  # its own `update` warns of what generate will warn of too
    return config

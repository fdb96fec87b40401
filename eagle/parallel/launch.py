"""A target divided by transformers' own plan (`base_model_tp_plan`), one part for every process of torchrun.

    torchrun --nproc_per_node 4 --no-python eagle-hsd chat --target ID --tp 4

The first process leads and runs the command; the others follow and never come back from loading.
"""

import atexit
import dataclasses
import os
import sys
from typing import Any

import torch.distributed as dist
from transformers import PretrainedConfig
from transformers.distributed import DistributedConfig

from eagle.engine.placement import whole_module
from eagle.engine.shape import attention_shape
from eagle.engine.target import Target
from eagle.parallel.following import Follower
from eagle.parallel.leading import LeadingTarget
from eagle.parallel.orders import LEADER, Link

RANK, WORLD = "RANK", "WORLD_SIZE"  # of torchrun


def follows(tp: int) -> bool:
    """Whether this process is one of those that never come back from loading a target with so many parts."""
    return tp > 1 and int(os.environ.get(RANK, LEADER)) != LEADER


def check_processes(tp: int) -> None:
    """Raises ValueError unless there are as many processes as parts, in no group yet."""
    here = int(os.environ.get(WORLD, 1))
    if here != tp:
        raise ValueError(
            f"tp is {tp}, and {here} process{'es run' if here > 1 else ' runs'}: start the command with "
            f"`torchrun --nproc_per_node {tp} --no-python eagle-hsd ..`"
        )
    if dist.is_initialized():
        raise ValueError(f"tp is {tp}, and the processes have a group already: one target a run is divided, once")


def check_plan(tp: int, config: PretrainedConfig, name: str) -> None:
    """Raises ValueError for a model that transformers has no plan for, and for heads that so many do not divide."""
    text = config.get_text_config(decoder=True)
    if not getattr(text, "base_model_tp_plan", None):
        raise ValueError(
            f"tp is {tp}, and transformers has no tensor parallel plan for {name} ({text.model_type}): "
            "spread its layers with --device-map auto"
        )
    shape = attention_shape(text)
    for what, count in (("attention", shape.num_heads), ("key/value", shape.num_key_value_heads)):
        if count % tp:
            raise ValueError(f"tp is {tp}, and {name} has {count} {what} heads: take a number that divides {count}")


def loading_arguments(tp: int) -> dict[str, Any]:
    """What `from_pretrained` is told: transformers 5 knows how many parts there are, 4 takes all processes."""
    if "tp_size" in {field.name for field in dataclasses.fields(DistributedConfig)}:
        return {"distributed_config": DistributedConfig(tp_size=tp)}
    return {"tp_plan": "auto"}


def lead_or_follow(model: Any, tokenizer: Any, name: str) -> Target:
    """On the leader the target. On the others the end of the program, once the leader has ended."""
    link, target = Link(model.device), Target(model, tokenizer, name=name)
    embedding = whole_module(model.get_input_embeddings())  # by all processes together
    if dist.get_rank() == LEADER:
        atexit.register(_dismiss, link)
        return LeadingTarget(model, tokenizer, name, link, embedding)
    Follower(target, link).serve()
    dist.destroy_process_group()
    sys.exit(0)


def _dismiss(link: Link) -> None:
    """Tell the others that this is the end, unless they wait in the middle of a pass: torchrun ends them then."""
    if not link.is_broken:
        link.send(None)
        dist.destroy_process_group()

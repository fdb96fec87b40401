"""What ``eagle-hsd prepare`` can be told."""

from dataclasses import dataclass

import torch

from eagle.load_options import LoadOptions
from eagle.options import DTYPES, check_options, option
from eagle.sampling import COLD


@dataclass(frozen=True)
class PrepareConfig(LoadOptions):
    """What to prepare and how; every field is a flag of ``eagle-hsd prepare`` and a key of its YAML files."""

    output: str = option(
        "data/prepared", "directory for rows, settings and statistics; an existing one is continued", may_change=True
    )
    prompts: str = option(
        "sharegpt",
        "'sharegpt' (packaged), a file (JSON lines, a JSON array, either gzipped, or parquet), or a dataset of the hub",
    )
    split: str = option("train", "split of a hub dataset")
    limit: int = option(0, "conversations to read at most, 0 for all", at_least=0)
    part: str = option(
        "training",
        "of the conversations; 'held_out': one in fifty, by its id, never trained on; 'all'",
        choices=("training", "held_out", "all"),
    )
    overlap_filter: bool = option(True, "drop conversations that share ten words in a row with a benchmark")
    target: str | None = option(None, "a model of the hub, a directory or a .gguf file; none for the packaged SmolLM2")
    answers: str = option(
        "regenerate", "'regenerate' with the target, or keep the 'original' ones", choices=("regenerate", "original")
    )
    endpoint: str | None = option(
        None,
        "address of a server that holds the target and answers in its place, as http://127.0.0.1:8000/v1",
        may_change=True,
    )
    served_model: str | None = option(None, "its name there; the only one by default", may_change=True)
    head: str | None = option(
        None,
        "draft head that the answers are written with, 'packaged' or as of other commands; none: a token at a time",
        may_change=True,
    )
    batch: int = option(8, "conversations answered side by side with a head", may_change=True, at_least=1, at_most=1024)
    system: str | None = option(
        None, "system prompt; none leaves it to the chat template. Serve with the same one", may_be_empty=True
    )
    temperature: float = option(1.0, "of the regenerated answers", at_least=0, at_most=100)
    greedy_share: float = option(
        0.3, "share of conversations answered at temperature 0 instead, in steps of 0.01", at_least=0, at_most=1
    )
    seed: int = option(0, "decides order, temperatures and draws, each together with a conversation's id")
    template: str | None = option(None, "FastChat template, for a tokenizer without one. Serve with the same one")
    max_turns: int = option(3, "user turns of a conversation to use", at_least=1)
    max_prompt_tokens: int = option(
        384, "tokens before an answer; a longer turn ends the conversation before it", at_least=1
    )
    max_new_tokens: int = option(400, "tokens of an answer; a cut answer ends its conversation", at_least=1)
    max_length: int = option(2048, "tokens of a whole conversation", at_least=1)
    max_answer_tokens: int = option(
        0, "stop when the output holds this many answer tokens, 0 for no limit", may_change=True, at_least=0
    )
    draft_vocab_size: int = option(
        0, "store the so many most frequent answer tokens as draft vocabulary, 0 for none", may_change=True, at_least=0
    )
    shard: str = option(
        "0/1", "'i/n': do the i-th of n disjoint parts; start one process for each, same output", may_change=True
    )
    num_lanes: int = option(
        96,
        "conversations answered side by side, by the server or here without a head",
        may_change=True,
        at_least=1,
        at_most=65536,
    )
    group_size: int = option(12, "lanes that share one key-value buffer", may_change=True, at_least=1)
    threads: int = option(
        0,
        "CPU threads, 0 for torch's own choice; 1 a shard beats sharing a busy machine",
        may_change=True,
        at_least=0,
        at_most=4096,
    )
    device: str | None = option(None, "of the target; none chooses the first accelerator or the CPU", may_change=True)
    dtype: str | None = option(
        None, "of the target's weights, as 'bfloat16'; none chooses for the device", choices=DTYPES
    )

    def __post_init__(self) -> None:
        check_options(self)
        if 0 < self.temperature < COLD:
            raise ValueError(f"temperature is {self.temperature}, it must be 0 (greedy) or at least {COLD}")
        if self.num_lanes % self.group_size:
            raise ValueError(f"num_lanes {self.num_lanes} must be a multiple of group_size {self.group_size}")
        if self.endpoint is not None and self.answers == "original":
            raise ValueError("answers is 'original' and an endpoint is given: leave one of them out")
        if self.head is not None and not self.answers_here:
            raise ValueError(f"head is '{self.head}', and the target answers nothing here: leave it out")
        if self.tp > 1:
            raise ValueError(
                f"tp is {self.tp}, and many conversations side by side need the whole target: start `torchrun "
                f"--nproc_per_node {self.tp} --no-python eagle-hsd serve --tp {self.tp}` and give its --endpoint"
            )
        index, count = self.parts
        if not 0 <= index < count:
            raise ValueError(f"shard is {self.shard!r}, expected 'i/n' with 0 <= i < n")

    @property
    def answers_here(self) -> bool:
        """Whether the target itself is loaded and answers: conversations do not keep theirs, and no server does."""
        return self.answers == "regenerate" and self.endpoint is None

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else getattr(torch, self.dtype)

    @property
    def parts(self) -> tuple[int, int]:
        index, _, count = self.shard.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard is {self.shard!r}, expected 'i/n' as in '0/2'")
        return int(index), int(count)

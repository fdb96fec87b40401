"""Prepare training conversations: prompts, answered by the target itself, as token ids with answer spans.

    eagle-hsd prepare --config configs/data/smollm2-regenerated.yaml
    eagle-hsd prepare --prompts my.jsonl --target meta-llama/Llama-3.1-8B-Instruct --output data/llama
    eagle-hsd prepare --prompts my.jsonl --target ID --endpoint http://127.0.0.1:8000/v1 --output data/served

Killed at any moment, the same command goes on without losing or repeating a row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from eagle.data.answered_drafted import drafted_sessions
from eagle.data.conversations import read_conversations
from eagle.data.overview import as_text, collect_statistics
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.data.token_counts import build_vocabulary, count_tokens, provenance_of, save_vocabulary
from eagle.files import write_json
from eagle.load_options import loading_options
from eagle.loading import describe_target, load_target
from eagle.options import parse


def main(argv: Sequence[str] | None = None) -> None:
    config = parse(PrepareConfig, __doc__ or "", argv)
    if config.threads:
        torch.set_num_threads(config.threads)
    prepare_and_report(config)


def prepare_and_report(config: PrepareConfig) -> None:
    """Prepare what is missing; statistics and, where it is wanted, the draft vocabulary are stored beside the rows."""
    target = (
        load_target(config.target, config.torch_dtype, config.device, **loading_options(config))
        if config.answers_here
        else describe_target(config.target, config.revision, config.trust_remote_code)
    )
    if target.tokenizer is None:
        raise ValueError(f"{target.name} has no tokenizer: name a target that has one")
    model, end_ids = target.model if config.answers_here else None, target.end_ids_with(config.template)
    sessions = drafted_sessions(target, config.head, config.batch)
    skipped = prepare(config, model, target.tokenizer, end_ids, new_session=sessions)
    output = Path(config.output)
    statistics = collect_statistics(read_conversations(output, config.max_length, target.vocab_size, skipped))
    write_json(output / "statistics.json", asdict(statistics) | {"left out": skipped})
    print(as_text(statistics, skipped))
    if config.draft_vocab_size:
        print(save_draft_vocabulary(config, target.name, target.vocab_size, target.end_token_ids))


def save_draft_vocabulary(config: PrepareConfig, target: str, vocab_size: int, end_ids: frozenset[int]) -> str:
    """Count all rows of the output and store the draft vocabulary beside them; returns a line about it."""
    output = Path(config.output)
    counted = count_tokens(read_conversations(output, config.max_length, vocab_size, Counter()), vocab_size)
    vocabulary = build_vocabulary(counted.counts, config.draft_vocab_size, end_ids)
    provenance = provenance_of(vocabulary, counted, target, output.name)
    save_vocabulary(output / "draft_vocabulary.safetensors", vocabulary, provenance)
    return f"draft vocabulary: {provenance.draft_vocab_size} tokens cover {provenance.coverage:.2%} of the answers"

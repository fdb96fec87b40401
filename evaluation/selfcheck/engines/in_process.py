"""A process that opens vLLM, answers batches of requests and ends: `python -m ... BATCHES.json ANSWERS.json`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.selfcheck.engines.asked import Answered, Asked, read_batches, write_answers

DRAFTS, ACCEPTED = "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens"


def main(argv: Sequence[str]) -> None:
    options, batches = read_batches(Path(argv[0]))
    import vllm  # only where it is installed

    llm = vllm.LLM(**options)
    write_answers(Path(argv[1]), [_answer(vllm, llm, batch) for batch in batches])


def _answer(vllm: Any, llm: Any, batch: Sequence[Asked]) -> Answered:
    """All requests of a batch at once, the first time for the clock too: it starts behind the engine's own warm-up."""
    before, start = _counted(llm), time.perf_counter()
    prompts = [{"prompt_token_ids": list(asked.prompt)} for asked in batch]
    outputs = llm.generate(prompts, [_params(vllm, asked) for asked in batch], use_tqdm=False)
    seconds, after = time.perf_counter() - start, _counted(llm)
    texts = tuple(tuple(output.outputs[0].token_ids) for output in outputs)
    return Answered(texts, seconds, *(int(late - early) for early, late in zip(before, after, strict=True)))


def _params(vllm: Any, asked: Asked) -> Any:
    return vllm.SamplingParams(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=asked.max_tokens,
    )


def _counted(llm: Any) -> tuple[float, float]:
    values = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return values.get(DRAFTS, 0), values.get(ACCEPTED, 0)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What users get without us: transformers' own `generate` on the same model as it comes, prompts and clock; a server.

Every setting that could shape the law is stated and neutral, because `generate` fills what is left out from the
model's own generation_config.json.
"""

import time
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from transformers import CompileConfig, GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from eagle.engine.packing import stock
from eagle.engine.target import Target
from eagle.sampling import Sampling
from evaluation.recording import Generation, Seconds

NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "use_cache": True}
STATIC_BLOCK = 512
NEUTRAL_SAMPLING = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0}


class _Arrivals(BaseStreamer):
    """Notes which tokens every target pass brought, and when the first of them came."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.first_s = 0.0
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        if not self._saw_prompt:
            self._saw_prompt = True
            return
        if not self.passes:
            self.first_s = time.perf_counter()
        self.passes.append(value.flatten().tolist())

    def end(self) -> None:
        pass


def generate(
    target: Target,
    prompt_ids: list[int],
    sampling: Sampling,
    max_new_tokens: int,
    seed: int,
    prompt_lookup_tokens: int | None = None,
    assistant: PreTrainedModel | None = None,
    compiled: bool = False,
) -> Generation:
    """One answer by `model.generate`: plain, with prompt lookup, or with a small language model that drafts.

    compiled: with a static cache and its own compilation, see `_compile`. Raises ValueError where it has none.
    """
    settings = _settings(target, sampling, max_new_tokens, prompt_lookup_tokens)
    if compiled:
        _compile(settings, target, len(prompt_ids) + max_new_tokens)
    drafting = {} if assistant is None else {"assistant_model": assistant}
    as_it_comes = nullcontext() if assistant is None else stock(assistant)
    ids, arrivals = torch.tensor([prompt_ids], device=target.device), _Arrivals()
    mask = torch.ones_like(ids)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(), stock(target.model), as_it_comes:
        torch.manual_seed(seed)
        start = time.perf_counter()
        target.model.generate(ids, attention_mask=mask, generation_config=settings, streamer=arrivals, **drafting)
        total_s = time.perf_counter() - start
    prefill_s = arrivals.first_s - start
    return counted(arrivals.passes, target.end_token_ids, max_new_tokens, Seconds(prefill_s, total_s - prefill_s))


def _compile(settings: GenerationConfig, target: Target, num_tokens: int) -> None:
    """Let `generate` compile its steps of one token, the fastest that transformers does by itself.

    On CPUs it does so only where it is told to compile on every device. Caches of whole blocks keep shapes apart from
    prompts: each new size is compiled again, in the middle of an answer.
    """
    if not getattr(target.model, "_can_compile_fullgraph", False):
        raise ValueError(f"{target.name} cannot be compiled by transformers' generate: leave arm 'hf_compiled' out")
    told = CompileConfig(mode="default", dynamic=False)
    told._compile_all_devices = True  # type: ignore[assignment]
    length = -(-num_tokens // STATIC_BLOCK) * STATIC_BLOCK
    settings.update(cache_implementation="static", compile_config=told, max_cache_len=length)  # type: ignore[no-untyped-call]


def streamed(events: Iterable[tuple[int, ...]], target: Target, max_new_tokens: int) -> Generation:
    """One answer of a server; an event of its stream is counted as a pass."""
    start, passes, first = time.perf_counter(), [], 0.0
    for tokens in events:
        first = first or time.perf_counter()
        passes.append(list(tokens))
    seconds = Seconds((first or time.perf_counter()) - start, time.perf_counter() - (first or start))
    if not passes:
        raise ValueError("the server sent an answer without tokens: look at its log")
    return counted(passes, target.end_token_ids, max_new_tokens, seconds)


def counted(
    passes: Iterable[list[int]], end_token_ids: frozenset[int], max_new_tokens: int, seconds: Seconds
) -> Generation:
    """Tokens by target pass -> a generation, cut at the end of text and at the cap."""
    kept, num_left, finish = [], max_new_tokens, "length"
    for tokens in passes:
        tokens = tokens[:num_left]
        end = next((i for i, token in enumerate(tokens) if token in end_token_ids), None)
        tokens = tokens if end is None else tokens[: end + 1]
        kept.append((tokens, max(len(tokens) - 1, 0)))
        num_left -= len(tokens)
        if end is not None or num_left == 0:
            finish = "length" if end is None else "stop"
            break
    return Generation(
        tokens=tuple(token for tokens, _ in kept for token in tokens),
        num_first=len(kept[0][0]),
        accepted=tuple(accepted for _, accepted in kept[1:]),
        emitted=tuple(len(tokens) for tokens, _ in kept[1:]),
        finish=finish,
        seconds=seconds,
    )


def _settings(
    target: Target, sampling: Sampling, max_new_tokens: int, prompt_lookup_tokens: int | None
) -> GenerationConfig:
    end_ids = sorted(target.end_token_ids)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=not sampling.greedy,
        eos_token_id=end_ids or None,
        pad_token_id=end_ids[0] if end_ids else 0,
        prompt_lookup_num_tokens=prompt_lookup_tokens,
        **NEUTRAL,
    )
    if not sampling.greedy:
        settings.update(temperature=sampling.temperature, **NEUTRAL_SAMPLING)  # type: ignore[no-untyped-call]
    if target.model.generation_config.min_p:
        settings.min_p = 0.0  # stated only where it replaces something: even a neutral one costs a softmax a token
    return settings

"""The checks of vLLM's server: our commands ask it, and our regeneration of answers is timed with and without it."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from eagle.data.answered_elsewhere import RemoteDecoder
from eagle.endpoint import Endpoint
from eagle.engine.batched import Answered, AnswerLimits, BatchedDecoder, Job
from eagle.engine.target import Target
from eagle.files import read_json
from evaluation.selfcheck.engines.asked import EngineSetup
from evaluation.selfcheck.engines.engine_processes import run_logged, server
from evaluation.selfcheck.engines.findings import Findings

AT_ONCE = 32  # requests
NUM_JOBS, ANSWER_TOKENS = 64, 96  # what is regenerated for the clock; a job in five at temperature 0, as in the recipe
WARM_UP = 8  # jobs before the clock is looked at
LIMITS = AnswerLimits(max_new_tokens=ANSWER_TOKENS, max_length=1024)
EAGLE_HSD = str(Path(sys.executable).parent / "eagle-hsd")


def check_commands(setup: EngineSetup, directory: Path, findings: Findings) -> None:
    """`prepare` and `evaluate` through the server, as a user calls them."""
    with server(setup, directory) as address:
        _prepare(address, directory, findings)
        _evaluate(address, directory, findings)


def _prepare(address: str, directory: Path, findings: Findings) -> None:
    output = directory / "prepared"
    told = f"--endpoint {address} --limit 40 --max-answer-tokens 500 --max-new-tokens 64 --num-lanes 12"
    run_logged([EAGLE_HSD, "prepare", *told.split(), "--output", str(output)], directory / "prepare.log", {})
    statistics = read_json(output / "statistics.json", "look at prepare.log")
    found = f"{statistics['num_conversations']} conversations, {statistics['num_answer_tokens']} answer tokens"
    findings.add("server: prepare --endpoint", statistics["num_answer_tokens"] >= 500, found)


def _evaluate(address: str, directory: Path, findings: Findings) -> None:
    output = directory / "evaluated"
    told = "--arms autoregressive served --tasks gsm8k --limit 3 --temperatures 0 --max-new-tokens 32 --dtype float32"
    command = [EAGLE_HSD, "evaluate", *told.split(), "--endpoint", address, "--output", str(output)]
    run_logged(command, directory / "evaluate.log", {})
    apart = output / "differences.jsonl"
    num_apart = len(apart.read_text(encoding="utf-8").splitlines()) if apart.is_file() else 0
    findings.add("server: evaluate --arms served", num_apart == 0, f"{num_apart} of 3 greedy texts differ from our own")


def time_regeneration(
    setups: Sequence[EngineSetup],
    target: Target,
    prompts: Sequence[tuple[int, ...]],
    directory: Path,
    findings: Findings,
) -> None:
    """Answer tokens a second of the same jobs, by our own batched loop and by servers."""
    jobs = [Job(str(n), (prompts[n % len(prompts)],), float(n % 5 != 0), n) for n in range(NUM_JOBS)]
    for lanes in (AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE):
        own = BatchedDecoder(target.model, target.end_token_ids, LIMITS, lanes, group_size=8)
        _timed(f"own loop, {lanes} lanes", own, jobs, findings)
    for setup in setups:
        fewer = replace(setup, options={**setup.options, "max_num_seqs": AT_ONCE})
        with server(fewer, directory) as address:
            decoder = RemoteDecoder(Endpoint(address), target.end_token_ids, LIMITS, AT_ONCE)
            _timed(f"vLLM {setup.name}, {AT_ONCE} requests at once", decoder, jobs, findings)


def _timed(name: str, decoder: BatchedDecoder | RemoteDecoder, jobs: Sequence[Job], findings: Findings) -> None:
    _answer_tokens(decoder.answer(jobs[:WARM_UP]))
    start = time.perf_counter()
    tokens = _answer_tokens(decoder.answer(jobs))
    seconds = time.perf_counter() - start
    findings.add(f"speed: {name}", None, f"{tokens / seconds:.0f} answer tokens/s ({tokens} in {seconds:.0f} s)")


def _answer_tokens(answers: Iterable[Answered]) -> int:
    total = 0
    for answered in answers:
        if answered.refused:
            raise ValueError(f"job {answered.job.id} was refused: {answered.refused}")
        total += sum(end - start for start, end in answered.spans)
    return total

"""vLLM's processes: one that answers batches, and its server."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from evaluation.selfcheck.engines.asked import Answered, Asked, EngineSetup, read_answers, write_batches

ENVIRONMENT = {  # one process on a CPU; models come from this machine
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` asks for a package `vllm`; the CPU build has another name
START_S = 300.0  # how long a server may take to come up
END_S = 60.0  # and to go
LOG_LINES = 20


def ask(setup: EngineSetup, batches: Sequence[Sequence[Asked]], directory: Path) -> list[Answered]:
    """Answers of an engine that is opened for these batches alone. Raises ValueError with its log's end if it fails."""
    plan, answers, log = (directory / f"{setup.name}.{kind}" for kind in ("asked.json", "answers.json", "log"))
    write_batches(plan, setup, batches)
    command = [sys.executable, "-m", "evaluation.selfcheck.engines.in_process", str(plan), str(answers)]
    run_logged(command, log, setup.environment)
    return read_answers(answers)


def run_logged(command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    """Raises ValueError that shows the log's end where the command fails."""
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=_environment(environment))
    if ended.returncode:
        raise ValueError(f"{' '.join(command)} failed with status {ended.returncode}:\n{_tail(log)}")


@contextmanager
def server(setup: EngineSetup, directory: Path) -> Iterator[str]:
    """Address of vLLM's server with these options, while the context lasts.

    Raises ValueError with its log's end where it does not come up.
    """
    port, log = _free_port(), directory / f"{setup.name}-server.log"
    command = [sys.executable, "-m", SERVER, "--host", "127.0.0.1", "--port", str(port), *_as_flags(setup.options)]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=_environment(setup.environment))
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _end(process)


def _as_flags(options: dict[str, Any]) -> list[str]:
    """Options of `LLM` as flags of the server."""
    flags: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is not False:
            flags += [flag] if value is True else [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(1)
    raise ValueError(f"the server did not come up within {START_S:.0f} s:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, **changes}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

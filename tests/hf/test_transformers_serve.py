"""`transformers serve DIRECTORY --trust-remote-code` drafts: its own server, in this process, over a real socket."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from transformers.cli.serve import Serve

from eagle.drafters.eagle3 import EagleDrafter
from eagle.hf.exported import export
from eagle.listening import free_port
from tests.hf.written import write_pair

PATIENCE_S = 60
ASKED: Any = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    write_pair(root)
    export(root / "model", root / "head", root / "written")
    return root


def served(folder: str, trust: bool) -> Iterator[Any]:
    port = free_port("127.0.0.1", 0)
    told: dict[str, Any] = {"dtype": "float32", "device": "cpu", "trust_remote_code": trust, "non_blocking": True}
    server = Serve(folder, host="127.0.0.1", port=port, **told)
    url, end_s = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < end_s:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    finally:
        server.kill_server()


def answers(folder: str, trust: bool) -> tuple[str, str]:
    """One whole and one streamed."""
    for client in served(folder, trust):
        whole = client.chat.completions.create(model=folder, **ASKED).choices[0].message.content
        chunks = client.chat.completions.create(model=folder, stream=True, **ASKED)
        return whole, "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    raise AssertionError("a server yields one client")


def test_a_served_directory_drafts_and_says_the_same(folders, monkeypatch):
    proposed = []
    proposing = EagleDrafter.proposing
    monkeypatch.setattr(EagleDrafter, "proposing", lambda *args: proposed.append(1) or proposing(*args))
    drafted = answers(str(folders / "written"), True)
    assert proposed
    num_proposed = len(proposed)
    assert answers(str(folders / "model"), False) == drafted
    assert len(proposed) == num_proposed and all(drafted)

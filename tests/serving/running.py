"""A server on a real socket of this machine, in a thread of the tests' process, and clients of it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from openai import OpenAI

from eagle.decode import DecodeOptions
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.target import Target
from eagle.listening import bound
from eagle.serving.answering import AnswerText
from eagle.serving.app import Service
from eagle.serving.backend import Backend
from eagle.serving.serve_options import ServeOptions
from eagle.serving.server import address, new_server
from eagle.trees import EagleTree
from tests import tiny_text
from tests.tiny import tiny_head

MODEL = "tiny"
BLOCK = 16  # prompts of these tests are short
PROMPT = "Why is the sky blue?"
ASKED = [{"role": "user", "content": PROMPT}]


def tiny_backend(**told: Any) -> Backend:
    """A random target that reads bytes, and a random head of it."""
    target = Target(tiny_text.target(), tiny_text.tokenizer(), name=MODEL)
    head = tiny_head(target, draft_vocab_size=target.vocab_size)
    return Backend(target, lambda: EagleDrafter(head, target.embed, EagleTree(6, 3, 2)), **told)


class Running:
    """One server and its address."""

    def __init__(self, service: Service, url: str):
        self.service, self.backend, self.url = service, service.backend, url
        self.worker = service.worker

    def client(self, **told: Any) -> Any:
        """An `OpenAI`, as types know too much of its arguments for dictionaries of them."""
        return OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60.0, **told})

    def post(self, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return httpx.post(self.url + path, content=json.dumps(body), headers=headers, timeout=60)

    def metric(self, line: str) -> float:
        """The value of a sample, of which `line` is the beginning."""
        for row in self.service.gauges.text().decode().splitlines():
            if row.startswith(line):
                return float(row.rpartition(" ")[2])
        raise AssertionError(f"no metric {line}")

    def is_idle(self, within_s: float = 20.0) -> bool:
        """Whether nothing waits, nothing is decoded, and all sessions are back, soon."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if self.worker.is_idle:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def running(backend: Backend, **options: Any) -> Iterator[Running]:
    chosen = ServeOptions(**{"port": 0, "reuse_block": BLOCK, **options})
    listener, server = bound(chosen.host, chosen.port), new_server(backend, chosen)
    url = address(listener)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        time.sleep(0.01)
    app: Any = server.config.app
    try:
        yield Running(app.state.service, url)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def alone(backend: Backend, prompt_ids: list[int], options: DecodeOptions, stop: tuple[str, ...] = ()) -> str:
    """What a session of its own, that nobody shares, answers."""
    text, said = AnswerText(backend.tokenizer, stop), ""
    for step in backend.new_session().decode(prompt_ids, options):
        delta, _ = text.read(step, 0)
        said += delta.text
        if delta.finish is not None:
            break
    return said

"""Many clients at once: a full queue, clients that vanish, bodies of garbage; nothing is lost and nothing stays."""

import gc
import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch

from eagle.serving.work import Job
from tests.serving.running import ASKED, MODEL, Running, running, tiny_backend
from tests.shared_passes import counted_passes

CLIENTS, REQUESTS = 50, 500
GARBAGE = (b"", b"{", b"[[[[", b'{"messages": 3}', b"\x00\xff", b'{"messages": [], "n": -1}')


def ask(number: int, max_tokens: int = 3) -> dict:
    content = f"question {number % 25} of many"
    told = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
    return {**told, "seed": number % 25, "temperature": number % 2}


def head(server: Running, body: bytes) -> bytes:
    host = server.url.removeprefix("http://")
    lines = ("POST /v1/chat/completions HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()


def vanish(server: Running, number: int) -> str:
    """A client that goes away: in the middle of its body, while it waits, or while it is read to."""
    body = json.dumps({**ask(number, 64), "stream": number % 3 == 2}).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(head(server, body) + (body[:20] if number % 3 == 0 else body))
        if number % 3 == 2:
            client.recv(1)
    return "vanished"


def garbage(server: Running, number: int) -> str:
    content = GARBAGE[number % len(GARBAGE)]
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400 and response.json()["error"]
    return "garbage"


def answer(server: Running, client: Any, number: int) -> tuple[int, str]:
    body = ask(number)
    if number // 2 % 2:
        return number % 50, client.chat.completions.create(**body).choices[0].message.content
    chunks = client.chat.completions.create(**body, stream=True)
    return number % 50, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server whose queue is too short for all clients at once: they come again."""
    with running(tiny_backend(), max_waiting=30) as server:
        yield server


def test_fifty_clients_in_bursts(small):
    """Every answer is the one that its request gets alone, whatever else is going on; afterwards all is as before."""
    alone = dict(answer(small, small.client(), number) for number in range(50))
    client = small.client(max_retries=100)

    def one(number: int) -> object:
        if number % 10 == 8:
            return vanish(small, number // 10)
        return garbage(small, number // 10) if number % 10 == 9 else answer(small, client, number)

    numbers = list(range(REQUESTS))
    random.Random(0).shuffle(numbers)
    with ThreadPoolExecutor(CLIENTS) as clients:
        results = list(clients.map(one, numbers))
    answers = [result for result in results if isinstance(result, tuple)]
    assert len(results) == REQUESTS and len(answers) == REQUESTS * 8 // 10
    assert [text for _, text in answers] == [alone[number] for number, _ in answers]
    assert small.is_idle() and small.worker.is_alive
    assert len(small.worker.pool) <= small.service.options.num_sessions
    assert small.metric("vllm:num_requests_running") == small.metric("vllm:num_requests_waiting") == 0
    end_s = time.monotonic() + 5
    while num_jobs() and time.monotonic() < end_s:  # the loop closes what it has cut off
        time.sleep(0.05)
    assert num_jobs() == 0, "no request is remembered"


def num_jobs() -> int:
    gc.collect()
    return sum(type(one) is Job for one in gc.get_objects())


def test_memory_does_not_grow_with_requests(small):
    """Tensors that are alive after many requests are those that were alive before; sessions all have been filled."""

    def num_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    def burst() -> int:
        client = small.client()
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(lambda number: answer(small, client, number), range(30)))
        assert small.is_idle()
        return num_tensors()

    burst()
    first = burst()
    assert burst() <= first + len(small.worker.pool), "a session may hold a tensor more or less, by its last answer"


def test_a_full_queue_says_come_again():
    with running(tiny_backend(), max_active=1, max_waiting=1) as server:
        client = server.client()
        told = {"model": MODEL, "messages": ASKED, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
        streams = [client.chat.completions.create(**told, stream=True)]
        next(iter(streams[0]))
        with ThreadPoolExecutor(1) as other:
            second = other.submit(client.chat.completions.create, **{**told, "max_tokens": 4})
            while not server.worker.num_waiting:
                time.sleep(0.001)
            response = server.post({"messages": ASKED, "max_tokens": 4})
            assert response.status_code == 429 and response.headers["retry-after"] == "1"
            assert response.json()["error"]["code"] == "rate_limit_exceeded"
            assert server.metric("vllm:num_requests_waiting") == server.metric("vllm:num_requests_running") == 1
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**told)
            streams[0].close()  # the client leaves, and its place is free
            assert second.result().choices[0].finish_reason == "length"
        assert server.is_idle()
        assert server.metric('vllm:request_success_total{engine="0",finished_reason="abort"') == 1


def test_who_leaves_while_waiting_leaves_the_queue():
    with running(tiny_backend(), max_active=1, max_waiting=1) as server:
        told = {"model": MODEL, "messages": ASKED, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
        stream = server.client().chat.completions.create(**told, stream=True)
        next(iter(stream))
        with pytest.raises(openai.APITimeoutError):
            server.client(timeout=0.3).chat.completions.create(**told)
        end_s = time.monotonic() + 10
        while server.worker.num_waiting and time.monotonic() < end_s:
            time.sleep(0.01)
        assert server.worker.num_waiting == 0
        stream.close()
        assert server.is_idle()


def test_requests_take_turns():
    """A short one that comes later is not held up by a long one."""
    with running(tiny_backend(), max_active=2) as server:
        told = {"model": MODEL, "messages": ASKED, "extra_body": {"ignore_eos": True}}
        stream = server.client().chat.completions.create(**told, max_tokens=450, stream=True)
        chunks = iter(stream)
        next(chunks)
        assert server.client().chat.completions.create(**told, max_tokens=2).choices
        assert server.worker.num_active == 1, "the long one goes on"
        stream.close()
        assert server.is_idle()


def test_what_fails_is_told_and_the_server_goes_on(monkeypatch):
    with running(tiny_backend()) as server:
        server.post({"messages": ASKED, "max_tokens": 2})
        session = server.worker.pool._idle[0]

        def broken(*args):
            raise RuntimeError("a secret of the machine")

        monkeypatch.setattr(session, "rounds", broken)
        response = server.post({"messages": ASKED, "max_tokens": 2})
        assert response.status_code == 500 and "secret" not in response.text
        assert server.post({"messages": ASKED, "max_tokens": 2}).status_code == 200
        assert server.is_idle() and session not in server.worker.pool._idle
        assert server.metric('vllm:request_success_total{engine="0",finished_reason="error"') == 1


def test_answers_under_way_end_when_the_server_does():
    with running(tiny_backend(), grace_s=0) as server:
        stream = server.client().chat.completions.create(
            model=MODEL, messages=ASKED, max_tokens=450, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
    assert not server.worker.is_alive and server.worker.pool.num_out == 0


def test_requests_share_their_passes_unless_they_take_turns(monkeypatch):
    """And every text is the one that it gets alone."""
    sizes = counted_passes(monkeypatch)
    texts = {}
    for take_turns in (False, True):
        with running(tiny_backend(), max_active=4, take_turns=take_turns) as server, ThreadPoolExecutor(4) as threads:

            def told(number: int, server: Running = server) -> str:
                return str(server.post(ask(number, 48)).json()["choices"][0]["message"]["content"])

            texts[take_turns] = list(threads.map(told, range(4)))
            assert bool(sizes) is not take_turns and server.is_idle()
        sizes.clear()
    assert texts[True] == texts[False]

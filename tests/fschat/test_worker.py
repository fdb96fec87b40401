"""FastChat's own controller and routes with our worker between them, on a tiny random model."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.engine.target import Target
from eagle.listening import free_port
from eagle.prompting import render_prompt
from tests import tiny_text
from tests.tiny import tiny_head

PATIENCE_S = 60
NAME = "tiny"


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def controller(tmp_path_factory) -> Iterator[str]:
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "-m", "fastchat.serve.controller", "--host", "127.0.0.1", "--port", str(port)]
    directory = tmp_path_factory.mktemp("controller")
    environment, silent = {**os.environ, "LOGDIR": ""}, subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=directory, env=environment, stdout=silent, stderr=silent)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(f"{url}/test_connection"))
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def worker(controller, tmp_path_factory):
    from eagle.fschat.model_worker import SpeculativeWorker, app

    target = Target(tiny_text.target(), tiny_text.tokenizer(), name=NAME)
    chat = Chat(target, tiny_head(target), options=DecodeOptions())
    port = free_port("127.0.0.1", 0)
    made = SpeculativeWorker(chat, NAME, controller, f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    made.register_to_controller()
    yield made
    server.should_exit = True
    thread.join(PATIENCE_S)


def ask(url: str, **params) -> list[dict]:
    """All lines of a streamed answer."""
    given = {"model": NAME, "prompt": "Hi", "temperature": 0, "max_new_tokens": 20, "echo": False, **params}
    response = requests.post(f"{url}/worker_generate_stream", json=given, timeout=PATIENCE_S)
    return [json.loads(line) for line in response.content.split(b"\0") if line]


def test_the_controller_knows_the_model_and_hears_it(controller, worker):
    assert requests.post(f"{controller}/list_models", timeout=5).json() == {"models": [NAME]}
    found = requests.post(f"{controller}/get_worker_address", json={"model": NAME}, timeout=5).json()
    assert found == {"address": worker.worker_addr}
    beat = {"worker_name": worker.worker_addr, "queue_length": 0}
    assert requests.post(f"{controller}/receive_heart_beat", json=beat, timeout=5).json() == {"exist": True}
    worker.send_heart_beat()


def test_answers_through_the_controller_are_those_of_a_chat(controller, worker):
    """The prompt is rendered as FastChat's clients do it: by the conversation that the worker hands out."""
    told = requests.post(f"{worker.worker_addr}/worker_get_conv_template", json={}, timeout=5).json()["conv"]
    assert told["name"] == worker.conv.name and told["system_message"] == "Be kind."
    conversation = worker.conv.copy()
    conversation.append_message(conversation.roles[0], "Hello")
    conversation.append_message(conversation.roles[1], None)
    prompt = conversation.get_prompt()
    assert prompt == render_prompt(worker.tokenizer, [{"role": "user", "content": "Hello"}])
    lines = ask(controller, prompt=prompt, max_new_tokens=30)
    chat = Chat(worker._chat.target, options=DecodeOptions(max_new_tokens=30))
    assert lines[-1]["text"] == chat.ask("Hello") and len(lines) > 2
    assert all(later["text"].startswith(line["text"]) for line, later in pairwise(lines))
    assert lines[-1]["usage"]["completion_tokens"] == len(chat.tokens)
    assert lines[-1]["usage"]["prompt_tokens"] == len(chat.prompt_ids)
    assert lines[-1]["finish_reason"] in ("stop", "length")


def test_stop_strings_echo_and_counts(controller, worker):
    whole = ask(controller)[-1]["text"]
    stop = whole[4:6]
    assert ask(controller, stop=[stop])[-1]["text"] == whole[: whole.index(stop)]
    assert ask(controller, stop=stop)[-1]["finish_reason"] == "stop"
    assert ask(controller, echo=True)[-1]["text"] == "Hi" + whole
    count = requests.post(f"{worker.worker_addr}/count_token", json={"prompt": "Hi"}, timeout=5).json()
    assert count == {"count": 2, "error_code": 0}
    once = requests.post(
        f"{worker.worker_addr}/worker_generate",
        json={"prompt": "Hi", "temperature": 0, "max_new_tokens": 20, "echo": False},
        timeout=PATIENCE_S,
    )
    assert once.json()["text"] == whole


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature is 'hot', it must be a number"),
        ({"best_of": 3}, "best_of is 3, this worker takes 1 alone"),
        ({"prompt": "x" * 600}, "exceed the target's context of 512 tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_what_cannot_be_done_is_told(controller, worker, params, told):
    (line,) = ask(controller, **params)
    assert told in line["text"] and line["error_code"] == 40302
    assert ask(controller)[-1]["error_code"] == 0


def test_a_client_that_leaves_takes_nothing_with_it(worker):
    given: Any = {"prompt": "Hi", "temperature": 0, "max_new_tokens": 400, "echo": False}
    url = f"{worker.worker_addr}/worker_generate_stream"
    with requests.post(url, json=given, stream=True, timeout=PATIENCE_S) as response:
        next(response.iter_content(1))
    assert ask(worker.worker_addr)[-1]["error_code"] == 0
    until(lambda: worker.get_queue_length() == 0)


def test_a_model_whose_prompts_fastchat_cannot_write_is_told():
    from eagle.fschat.prompt_format import conversation_for

    other = tiny_text.tokenizer("{% for m in messages %}[[{{ m['role'] }}: {{ m['content'] }}]]{% endfor %}")
    with pytest.raises(ValueError, match="none of FastChat's templates renders this model's prompts"):
        conversation_for(other, None)
    assert conversation_for(other, "vicuna_v1.1").name == "vicuna_v1.1"
    with pytest.raises(ValueError, match="no conversation template 'oak'"):
        conversation_for(other, "oak")


def test_a_system_message_takes_the_place_of_the_templates_own():
    from eagle.fschat.prompt_format import conversation_for

    assert conversation_for(tiny_text.tokenizer(), None, "Be brief.").system_message == "Be brief."


def test_no_file_is_left_behind(worker):
    """It depended on whether FastChat's constants had been read before the folder of its logs was switched off."""
    assert not list(Path.cwd().glob("model_worker_*.log"))

"""The packaged model with its shipped head, as a user starts it: in a process of its own, ended by Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from eagle.cli.dispatch import INTERRUPTED
from eagle.cli.serve import main
from eagle.decode import DecodeOptions, autoregressive
from eagle.listening import bound
from eagle.prompting import encode_prompt, render_prompt
from eagle.sampling import Sampling
from tests.cli.console import ROOT
from tests.tiny import tokens_of

MODEL = "SmolLM2-135M-Instruct"
COMMAND = "from eagle.cli.dispatch import run_command; run_command('eagle.cli.serve:main')"
ASKED = [{"role": "user", "content": "Name three colours."}]
TREE = ("--tree", "eagle:num_nodes=8,depth=4,top_k=3")  # a plan would measure the machine first


def address(log: Path, process: subprocess.Popen) -> str:
    """What the server says of itself, once it listens."""
    for _ in range(1800):
        if found := re.search(r"listens on (http://\S+)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    log = tmp_path_factory.mktemp("serve") / "log"
    words = ("-c", COMMAND, "--port", "0", "--dtype", "float32", *TREE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EAGLE_HSD_API_KEY": "key"}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=file)
    yield process, address(log, process), log
    process.kill()
    process.wait()


@pytest.mark.parametrize("temperature", [0, 1])
def test_answers_are_those_of_plain_decoding(server, smollm2, temperature):
    client = OpenAI(base_url=f"{server[1]}/v1", api_key="key", timeout=120)
    told = {"model": MODEL, "messages": ASKED, "max_tokens": 24, "seed": 3, "temperature": temperature}
    answer = client.chat.completions.create(**told)
    ids = encode_prompt(smollm2.tokenizer, render_prompt(smollm2.tokenizer, ASKED))
    options = DecodeOptions(Sampling(temperature), 24, "coupled", seed=3)
    plain = tokens_of(autoregressive(smollm2, ids, options))
    assert answer.choices[0].message.content == smollm2.tokenizer.decode(plain, skip_special_tokens=True)
    assert answer.usage.completion_tokens == len(plain)
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens > 0, "the head drafts"


def test_ctrl_c_ends_it_without_a_traceback(server):
    process, _, log = server
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == INTERRUPTED
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-active", "0"], "max_active is 0, it must be at least 1"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--tree", "coupled", "--verifier", "hsd"], "does not fit"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid:0"),
    ],
)
def test_a_users_mistake_costs_no_loading(flags, message, monkeypatch):
    monkeypatch.delenv("EAGLE_HSD_API_KEY", raising=False)
    with pytest.raises(ValueError, match=message):
        main(["--port", "0", *flags])


def test_a_port_that_is_taken_is_named():
    taken = bound("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f"cannot listen at 127.0.0.1:{port} .*: choose another --port"):
        bound("127.0.0.1", port)
    taken.close()

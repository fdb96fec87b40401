"""`eagle-hsd web` as a user starts it: it listens on this machine alone, answers, and ends with Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests

from eagle.checkpoints.flat import save_head
from eagle.cli.web_chat import main
from eagle.engine.target import Target
from eagle.listening import free_port, is_loopback
from tests import tiny_text
from tests.cli.console import ROOT
from tests.tiny import tiny_head
from tests.web.tiny_site import PATIENCE_S

WEB = "import sys; from eagle.cli.dispatch import run_command; run_command('eagle.cli.web_chat:main', sys.argv[1:])"


def test_it_serves_the_page_until_ctrl_c(tmp_path):
    model, tokenizer = tiny_text.target(), tiny_text.tokenizer()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "target")
    save_head(tiny_head(Target(model, tokenizer)), tmp_path / "head")
    pair = ["--target", str(tmp_path / "target"), "--head", str(tmp_path / "head")]
    command = [sys.executable, "-c", WEB, *pair, "--port", "0", "--dtype", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        line = next(line for line in process.stdout if line.startswith("open http://127.0.0.1:"))
        page = requests.get(line.split()[1], timeout=PATIENCE_S)
        assert page.ok and "eagle-hsd" in page.text
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130 and "Traceback" not in stderr, stderr
    finally:
        process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head", "target"], "files are left where it was started"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tree", "oak"], "unknown tree 'oak'"),
        (["--tree", "coupled", "--verifier", "hsd", "--temperature", "1"], "does not fit this tree"),
        (["--port", "70000"], "port is 70000, it must lie in 0..65535"),
        (["--max-new-tokens", "9000"], "this page answers in at most 8192"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(flags, message, monkeypatch):
    monkeypatch.setattr("eagle.cli.web_chat.models_from_flags", lambda args: pytest.fail("models are loaded"))
    with pytest.raises(ValueError, match=re.escape(message)):
        main([*flags, "--port", "0"] if "--port" not in flags else flags)


def test_a_port_that_is_taken_is_told():
    told = pytest.raises(ValueError, match="choose another --port or --host")
    with socket.create_server(("127.0.0.1", 0)) as taken, told:
        free_port("127.0.0.1", taken.getsockname()[1])
    assert 0 < free_port("127.0.0.1", 0) < 2**16


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)],
)
def test_which_addresses_are_this_machine_alone(host, alone):
    assert is_loopback(host) == alone

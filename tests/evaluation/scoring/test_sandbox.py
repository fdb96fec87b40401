"""What a program in the sandbox may do, and what stops it."""

import pytest

from evaluation.scoring.sandbox import Limits, isolation, passes

TIGHT = Limits(wall_s=10, cpu_s=2, memory_bytes=256 << 20, file_bytes=1 << 16)
STOPPED = {
    "a failed assertion": "assert 1 == 2",
    "leaving early with success": "import sys; sys.exit(0)",
    "leaving early for good": "import os; os._exit(0)",
    "too much memory": "x = bytearray(1 << 30)",
    "a file too large": "open('x', 'wb').write(bytes(1 << 20))",
    "a flood of output": "print('x' * (1 << 20))",
    "an endless loop": "while True: pass",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
    "not a program": "def f(:",
}


@pytest.mark.parametrize("program", STOPPED)
def test_it_is_stopped(program):
    assert not passes(STOPPED[program], TIGHT)


def test_a_program_that_sleeps_is_stopped_by_the_wall_clock():
    assert not passes("import time; time.sleep(60)", Limits(wall_s=1.0))


def test_an_ordinary_program_passes_and_sees_no_environment():
    assert passes("import os, math\nassert 'HOME' not in os.environ\nopen('mine', 'w').write('x')", TIGHT)


@pytest.mark.skipif(isolation() != "network namespace", reason="needs user namespaces: unshare is refused here")
def test_the_network_is_gone_below_python_too():
    """`_socket` is the module under `socket`; only the namespace keeps it from connecting."""
    passed = "import _socket\ns = _socket.socket()\ntry:\n    s.connect(('10.0.0.1', 80))\nexcept OSError as e:\n    "
    assert passes(passed + "assert e.errno == 101, e\nelse:\n    raise SystemExit(1)", TIGHT)  # 101: unreachable

"""What a program in the sandbox may do, what stops it, and what it cannot pretend."""

from dataclasses import replace

import pytest

from evaluation.scoring import sandbox
from evaluation.scoring.sandbox import Exam, Limits, isolation, passes, refuse_unsafe, solves

TIGHT = Limits(wall_s=10, cpu_s=2, memory_bytes=256 << 20, file_bytes=1 << 16)
HAS_NAMESPACES = sandbox.refusal() is None
WAYS = {"namespaces": True, "fallback": False} if HAS_NAMESPACES else {"fallback": False}  # what this machine has


def needs_namespaces(test):
    """On a machine that refuses namespaces the test is that programs are refused."""

    def refused():
        with pytest.raises(ValueError, match="--unsafe-sandbox"):
            refuse_unsafe(False)

    return test if HAS_NAMESPACES else refused


both_ways = pytest.mark.parametrize("jailed", WAYS.values(), ids=WAYS)


@pytest.fixture
def jailed() -> bool:
    return HAS_NAMESPACES


@pytest.fixture(autouse=True)
def _way(jailed, monkeypatch):
    """Runs of a test marked `both_ways`: as on this machine, and as on one that refuses namespaces."""
    if not jailed:
        monkeypatch.setattr(sandbox, "refusal", lambda: "refused for a test")


STOPPED = {
    "a failed assertion": "assert 1 == 2",
    "leaving early with success": "import sys; sys.exit(0)",
    "leaving early for good": "import os; os._exit(0)",
    "leaving while it leaves": "import atexit, os; atexit.register(os._exit, 0); assert False",
    "an exit from an exit handler": "import atexit, sys; atexit.register(sys.exit, 0); assert False",
    "a hook that swallows the error": "import os, sys; sys.excepthook = lambda *_: os._exit(0); assert False",
    "a thread that exits": "import os, threading; threading.Thread(target=os._exit, args=(0,)).start(); input()",
    "too much memory": "x = bytearray(1 << 30)",
    "a file too large": "open('x', 'wb').write(bytes(1 << 20))",
    "a flood of output": "print('x' * (1 << 20))",
    "a flood of errors": "import sys; sys.stderr.write('x' * (1 << 20)); sys.stderr.flush()",
    "endless output": "while True: print('x' * 1000)",
    "an endless loop": "while True: pass",
    "an endless loop that ignores signals": (
        "import signal\n"
        "for n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "a stack that overflows": (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())"
    ),
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
    "a raw connection": "import _socket; _socket.socket().connect(('127.0.0.1', 9))",
    "a socket of the file system": "import socket; socket.socket(socket.AF_UNIX)",
    "a foreign call": (
        "import ctypes\nlibc = ctypes.CDLL(None)\ns = libc.socket(2, 1, 0)\n"
        "assert libc.connect(s, b'\\x02\\0\\0\\x09\\x7f\\0\\0\\x01' + bytes(8), 16) == 0"
    ),
    "asking for input": "input()",
    "not a program": "def f(:",
    "a character no file holds": "x = '\ud800'",
}


@both_ways
@pytest.mark.parametrize("program", STOPPED)
def test_it_is_stopped(program):
    assert not passes(STOPPED[program], TIGHT, unsafe=True)


@both_ways
def test_a_program_that_sleeps_or_stops_is_ended_by_the_wall_clock():
    assert not passes("import time; time.sleep(60)", Limits(wall_s=0.5), unsafe=True)
    stop = "import os, signal\ntry: os.kill(os.getppid(), signal.SIGSTOP)\nexcept OSError: pass\n"
    assert not passes(stop + "signal.raise_signal(signal.SIGSTOP)", Limits(wall_s=0.5), unsafe=True)


@both_ways
def test_an_ordinary_program_passes_and_sees_no_environment():
    program = "import os, math, json, re, collections, hashlib\nassert 'HOME' not in os.environ\nprint('hello')\n"
    assert passes(program + "open('mine', 'w').write('x')\nassert __name__ == '__main__'", TIGHT, unsafe=True)


@needs_namespaces
def test_the_network_is_gone_below_python_too():
    """`_socket` is the module under `socket`; only the namespace keeps it from connecting."""
    passed = "import _socket\ns = _socket.socket()\ntry:\n    s.connect(('10.0.0.1', 80))\nexcept OSError as e:\n    "
    assert passes(passed + "assert e.errno == 101, e\nelse:\n    raise SystemExit(1)", TIGHT)  # 101: unreachable


def test_without_namespaces_programs_run_only_on_request(monkeypatch):
    monkeypatch.setattr(sandbox, "refusal", lambda: "refused for a test")
    for refused in (lambda: passes("pass"), lambda: solves("", ADD), lambda: refuse_unsafe(False)):
        with pytest.raises(ValueError, match=r"no namespaces .*refused for a test.*may get at .*--unsafe-sandbox"):
            refused()
    refuse_unsafe(True)
    assert passes("pass", unsafe=True) and "no namespaces" in isolation() and "files" in sandbox.warning()


@needs_namespaces
def test_with_namespaces_nothing_is_refused():
    refuse_unsafe(False)
    assert sandbox.warning() is None and isolation().startswith("namespaces")


ADD = Exam("def check(candidate):\n    assert candidate(1, 2) == 3\n    assert add([1], [2]) == [1, 2]\n", "add")
RIGHT = {
    "a function": "def add(a, b): return a + b",
    "a function that prints": "def add(a, b):\n    print(a)\n    return a + b",
    "a program that is used as a module": "def add(a, b): return a + b\nif __name__ == '__main__':\n    input()",
    "a value": "import operator\nadd = operator.add",
    "a number of another kind": "from fractions import Fraction as F\ndef add(a, b): return F(3) if a == 1 else a + b",
}
PRETENDS = {
    "nothing": "",
    "a wrong function": "def add(a, b): return a - b",
    "an early end": "import sys\ndef add(a, b): sys.exit(0)",
    "a hard end": "import os\ndef add(a, b): os._exit(0)",
    "a hard end at once": "import os; os._exit(0)",
    "an end from a handler": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit",
    "what equals everything": (
        "class Any:\n    __eq__ = lambda *_: True\n    __ne__ = lambda *_: False\ndef add(a, b): return Any()"
    ),
    "a number that equals everything": (
        "class Any(int):\n    __eq__ = lambda *_: True\n    __hash__ = int.__hash__\ndef add(a, b): return Any(7)"
    ),
    "other builtins": (
        "import builtins\nbuiltins.exec = builtins.compile = builtins.print = lambda *_: None\n"
        "builtins.AssertionError = builtins.isinstance = lambda *_: True\ndef add(a, b): return 0"
    ),
    "tests of its own": "def check(candidate): pass\ndef add(a, b): return 0",
    "a swallowed error": "import contextlib, sys\nsys.excepthook = print\ndef add(a, b): raise AssertionError",
    "what frames and objects hold, said everywhere": (
        "import gc, os, sys\n"
        "def add(a, b):\n"
        "    frame, said = sys._getframe(), {'ended', 'pass', 'ok', '{\"ended\": true}', '{\"value\": true}'}\n"
        "    while frame:\n"
        "        said |= {v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if isinstance(v, str)}\n"
        "        frame = frame.f_back\n"
        "    try: said |= {o for d in gc.get_objects() if type(d) is dict for o in d.values() if type(o) is str}\n"
        "    except PermissionError: pass\n"
        "    for text in said:\n"
        "        print(text[:1000])\n"
        "        for fd in range(64):\n"
        "            try: os.write(fd, text[:1000].encode(errors='replace') + b'\\n')\n"
        "            except OSError: pass\n"
        "    os._exit(0)"
    ),
    "what files hold": (
        "import glob, os\n"
        "for name in glob.glob('*') + glob.glob('../*') + glob.glob('/proc/[0-9]*/*') + glob.glob('/proc/*/fd/*'):\n"
        "    try: print(open(name).read(1000), flush=True)\n"
        "    except (OSError, ValueError): pass\n"
        "os._exit(0)"
    ),
    "the tests' process": (
        "import os\n"
        "def add(a, b):\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try: open(f'/proc/{pid}/mem', 'r+b').write(b'x')\n"
        "        except OSError: pass\n"
        "    return 0"
    ),
    "a dead examiner": "import os\ndef add(a, b): os.kill(-1, 9)",
    "half an answer": (
        "import os\n"
        "def add(a, b):\n    for n in range(3, 9):\n        try: os.write(n, b'{')\n        except OSError: pass"
    ),
    "an endless answer": "import os\nA = []\nA.append(A)\ndef add(a, b): return A",
}  # fmt: skip


@both_ways
@pytest.mark.parametrize("program", RIGHT)
def test_a_right_function_solves(program):
    assert solves(RIGHT[program], ADD, TIGHT, unsafe=True)


@both_ways
@pytest.mark.parametrize("program", PRETENDS)
def test_nothing_passes_but_right_values(program):
    """A pass could be faked by reading the token from the script or a frame: no process of the program knows one."""
    assert not solves(PRETENDS[program], ADD, replace(TIGHT, wall_s=3), unsafe=True)


def test_tests_may_use_the_setup_and_expect_errors():
    exam = Exam(
        "import math\n"
        "def check(candidate):\n    assert twice(candidate(-1.0)) == math.inf\n    try: candidate(x=None)\n"
        "    except TypeError: return\n    assert False\n",
        "f",
        setup="def twice(x):\n    return 2 * x\ndef f(x):\n    pass\n",
    )
    assert solves("def f(x): return -x * float('inf')", exam, unsafe=True)
    assert not solves("def f(x): return 0 if x is None else float('inf')", exam, unsafe=True)


def test_what_a_program_gives_back_is_never_the_tests_fault():
    """A generator, handed to the program again by the tests, ended the evaluation."""
    exam = Exam("def check(candidate):\n    assert candidate(candidate(1)) == 1", "f")
    assert not solves("def f(x): return (y for y in ())", exam, unsafe=True)
    assert solves("def f(x): return x", exam, unsafe=True)


@pytest.mark.parametrize(
    ("exam", "message"),
    [
        (Exam("def check(candidate):", "f"), "IndentationError"),
        (Exam("x = 1", "f"), "'check'"),
        (Exam("def check(candidate): candidate(print)", "f"), "f is called with something that is no number"),
        (Exam("def check(candidate): pass", "f", setup="import nothing_of_this_name"), "nothing_of_this_name"),
    ],
)
def test_tests_that_cannot_be_run_are_an_error_and_no_failure(exam, message):
    with pytest.raises(ValueError, match=message):
        solves("def f(x): return x", exam, unsafe=True)


@both_ways
def test_a_sandbox_that_cannot_be_set_up_is_an_error_and_no_failure():
    """All right programs would count as wrong: here no system can set the limit."""
    with pytest.raises(OSError, match="the sandbox could not be set up"):
        passes("pass", Limits(cpu_s=1 << 70), unsafe=True)


@needs_namespaces
def test_numpy_can_be_used_on_machines_of_many_cores():
    pytest.importorskip("numpy")
    assert passes("import numpy\nassert numpy.ones((50, 50)).dot(numpy.ones((50, 50)))[0, 0] == 50")

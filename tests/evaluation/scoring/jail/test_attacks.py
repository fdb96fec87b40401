"""What programs try against the machine they run on: the right outcome of each attack."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from evaluation.scoring import sandbox
from evaluation.scoring.sandbox import Limits, passes
from tests.evaluation.scoring.test_sandbox import _way, both_ways, jailed, needs_namespaces

__all__ = ["_way", "jailed"]  # fixtures
LIMITS = Limits(wall_s=10, memory_bytes=256 << 20)
OTHERS = Path.home()  # a folder that is not under the temporary one


@pytest.fixture(params=["temporary", "home"])
def victim(request, tmp_path):
    path = tmp_path / "victim" if request.param == "temporary" else OTHERS / f".victim-of-a-test-{os.getpid()}"
    path.write_text("precious")
    yield path
    path.unlink()


TAMPER = {
    "delete": "os.remove({path!r})",
    "overwrite": "open({path!r}, 'w').write('x')",
    "append": "open({path!r}, 'a').write('x')",
    "truncate": "os.truncate({path!r}, 0)",
    "rename": "os.rename({path!r}, {path!r} + '-moved')",
    "replace": "open('mine', 'w').write('x'); os.replace('mine', {path!r})",
    "by its descriptor": "os.write(os.open({path!r}, os.O_WRONLY | os.O_TRUNC), b'x')",
    "by a folder's descriptor": "os.remove(os.path.basename({path!r}), dir_fd=os.open(os.path.dirname({path!r}), 0))",
    "by a folder, for writing": (
        "os.open(os.path.basename({path!r}), 0x201, dir_fd=os.open(os.path.dirname({path!r}), 0))"
    ),
    "take its rights by its descriptor": "os.chmod(os.open({path!r}, 0), 0)",
    "through a link": "os.symlink({path!r}, 'link'); open('link', 'w').write('x')",
    "remove the folder": "import shutil; shutil.rmtree(os.path.dirname({path!r}) + '/victim')",
    "take its rights": "os.chmod({path!r}, 0)",
    "by another program": "import subprocess; subprocess.run(['rm', '-f', {path!r}])",
    "by a shell": "os.system('echo x > ' + {path!r})",
    "after a change of folder": "os.chdir(os.path.dirname({path!r})); os.remove(os.path.basename({path!r}))",
}


@both_ways
@pytest.mark.parametrize("attack", TAMPER)
def test_files_of_the_user_stay(attack, victim):
    """A model's program could delete and overwrite whatever the user may."""
    before = victim.stat()
    program = f"import os\ntry: {TAMPER[attack].format(path=str(victim))}\nexcept OSError: pass"
    passes(program, LIMITS, unsafe=True)
    after = victim.stat()
    assert victim.read_text() == "precious" and (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


@both_ways
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/var/tmp", "."])
def test_what_it_writes_does_not_remain(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"left-by-a-test-{os.getpid()}"
    passes(f"import os\nos.makedirs({folder!r} + '/{name}')", LIMITS, unsafe=True)
    assert not (Path(folder) / name).exists() and list(tmp_path.iterdir()) == []


@needs_namespaces
def test_temporary_folders_are_writable_and_its_own():
    for folder in ("/tmp", "/dev/shm"):
        assert passes(f"import os\nopen({folder!r} + '/x', 'w').write('x')\nassert os.listdir({folder!r})", LIMITS)
    pythons = {Path(place).parts[2] for place in (sys.prefix, sys.base_prefix) if Path(place).is_relative_to("/tmp")}
    expected = sorted({"printed"} | pythons)  # an interpreter that lives there is still needed
    program = f"import os\nassert sorted(os.listdir('/tmp')) == {expected} and os.listdir('/run') == []"
    assert passes(program, LIMITS)


def living(mark: str) -> list[int]:
    """Processes with this word among theirs, that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


DAEMONS = {
    "a session of its own": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: {sleep}\n    os._exit(0)",
    "deaf to signals": "if os.fork() == 0:\n    for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n    {sleep}",
    "by a subprocess": "import subprocess; subprocess.Popen(['sleep', '60.{mark}'], start_new_session=True)",
    "stopped": "child = os.fork()\nif child == 0: {sleep}\ntime.sleep(0.2); os.kill(child, signal.SIGSTOP)",
}


@both_ways
@pytest.mark.parametrize("kind", DAEMONS)
@pytest.mark.parametrize("ending", ["", "\nwhile True: pass"], ids=["ends", "over the time"])
def test_no_process_is_left(kind, ending):
    """Detached children outlived the limit, and the run."""
    mark = f"{os.getpid()}{abs(hash((kind, ending))) % 10**6}"
    sleep = f"os.execvp('sleep', ['sleep', '60.{mark}'])"
    body = DAEMONS[kind].format(sleep=sleep, mark=mark)
    passes(f"import os, signal, time\n{body}\ntime.sleep(0.2){ending}", Limits(wall_s=2), unsafe=True)
    assert living(mark) == []


@both_ways
def test_a_fork_bomb_is_bounded_and_leaves_nothing():
    start = time.monotonic()
    assert not passes("import os\nwhile True:\n    os.fork()", Limits(wall_s=3), unsafe=True)
    assert time.monotonic() - start < 30


@needs_namespaces
def test_memory_is_counted_over_all_processes():
    """Eight children of 60 MB each are within every process's own limit of 256 MB."""
    program = (
        "import os, time\nfor _ in range({children}):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (60 << 20)\n        time.sleep(0.5)\n        os._exit(0)\n"
        "for _ in range({children}): os.wait()"
    )
    assert passes(program.format(children=2), LIMITS)
    assert not passes(program.format(children=8), LIMITS)


@needs_namespaces
@pytest.mark.parametrize(
    "program",
    [
        "for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(1 << 19))",
        "for i in range(100): open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 19))",
        "for i in range(10**5): open(f'/tmp/{i}', 'wb')",
        "import os; os.memfd_create('x')",
    ],
    ids=["many files", "shared memory", "files without end", "memory without a name"],
)
def test_what_it_writes_is_bounded(program):
    assert not passes(program, LIMITS)


@both_ways
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT])
def test_no_signal_reaches_anyone_outside(number):
    """The evaluator could be frozen by SIGSTOP: this test would hang."""
    program = f"import os\nfor pid in ({os.getpid()}, {os.getppid()}, os.getppid(), 1):\n    "
    program += f"try: os.kill(pid, {int(number)})\n    except OSError: pass"
    passes(program, Limits(wall_s=2), unsafe=True)


@needs_namespaces
@pytest.mark.parametrize(
    "check",
    [
        "assert all(int(line.split()[1], 16) == 0 for line in open('/proc/self/status') if line.startswith('Cap'))",
        "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()",
        f"import os\nassert os.getuid() == {65534 if os.getuid() == 0 else os.getuid()}",
        "import os\nassert {p for p in os.listdir('/proc') if p.isdigit()} <= {'1', '2', '3'}",
        "import os\nassert set(os.listdir('/dev')) == {'null', 'zero', 'full', 'random', 'urandom', 'fd', 'shm'}",
        "import os\nassert not any(os.access(p, os.W_OK) for p in ('/', '/etc', '/usr', '/proc/sys/kernel/hostname'))",
        "open('/dev/null', 'w').write('x')\nassert len(open('/dev/urandom', 'rb').read(8)) == 8",
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x10000000) == libc.ptrace(16, 1, 0, 0) == -1",
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) == -1",
        "import subprocess\nassert subprocess.run(['ls'], capture_output=True).returncode == 0",
        "from concurrent.futures import ThreadPoolExecutor\nassert list(ThreadPoolExecutor(4).map(abs, [-1])) == [1]",
    ],
)
def test_inside(check):
    assert passes(check, LIMITS)


@pytest.fixture
def unfiltered(monkeypatch):
    """A machine that has neither namespaces nor a filter of system calls: Python's hooks are all there is."""
    monkeypatch.setattr(sandbox, "refusal", lambda: "refused for a test")
    monkeypatch.setattr(sandbox, "LAUNCH", f"import platform; platform.machine = lambda: 'vax'; {sandbox.LAUNCH}")


def test_without_a_filter_python_refuses_what_it_sees(unfiltered, tmp_path):
    mark, victim = f"{os.getpid()}0", tmp_path / "victim"
    victim.write_text("precious")
    for kind in DAEMONS:
        body = DAEMONS[kind].format(sleep=f"os.execvp('sleep', ['sleep', '60.{mark}'])", mark=mark)
        assert not passes(f"import os, signal, time\n{body}", LIMITS, unsafe=True)
    for attack in TAMPER.values():
        passes(f"import os\n{attack.format(path=str(victim))}", LIMITS, unsafe=True)
    for network in ("import socket; socket.socket()", "import _socket; _socket.socket()", "import ctypes"):
        assert not passes(network, LIMITS, unsafe=True)
    assert victim.read_text() == "precious" and living(mark) == []
    assert passes("assert sum([1, 2]) == 3", LIMITS, unsafe=True)

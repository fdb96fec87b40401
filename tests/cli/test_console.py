"""`eagle-hsd`: it finds its commands, says what they do, and no mistake of a user ends in a traceback."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from eagle.cli.dispatch import choose, first_line, run_or_explain
from evaluation.bench.main import COMMANDS as BENCHES
from evaluation.hierarchy.main import COMMANDS as HIERARCHY
from evaluation.trees.main import COMMANDS as TREES
from tests.cli.console import PROJECT, ROOT, Ended, assert_one_clear_line, run, write_metadata

COMMANDS = PROJECT["entry-points"]["eagle_hsd.commands"]
TRAIN = "configs/train/tiny.yaml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    return write_metadata(tmp_path_factory.mktemp("installed"))


def console(installed: Path, *words: str) -> Ended:
    return run("-m", "eagle.cli.main", *words, path=installed)


def start(*words: str) -> None:
    """As the console command does, in this process."""
    run_or_explain(lambda: choose("eagle-hsd", COMMANDS, words))


@pytest.fixture(autouse=True)
def _no_accelerator_is_left():
    """`train` makes one before it finds out what is wrong, and accelerate keeps the first one of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _argv_is_put_back(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["eagle-hsd"])


def test_the_project_names_its_commands():
    names = "bench chat convert demo estimate evaluate export-generate fastchat-worker features hierarchy lm-eval"
    names += " prepare serve train trees web"
    assert set(COMMANDS) == set(names.split())
    assert PROJECT["scripts"] == {"eagle-hsd": "eagle.cli.main:main"}


@pytest.mark.parametrize("entry", [*COMMANDS.values(), *TREES.values(), *BENCHES.values(), *HIERARCHY.values()])
def test_every_command_is_there_and_says_what_it_does(entry):
    module, _, function = entry.partition(":")
    assert callable(getattr(import_module(module), function))
    assert first_line(entry).endswith(".")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_list_names_every_command_on_a_line_of_its_own(installed, words):
    result = console(installed, *words)
    assert result.returncode == 0, result.stderr
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(first_line(entry))}$", result.stdout, re.MULTILINE)


def test_the_list_needs_no_torch(installed):
    code = "import sys; from eagle.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    assert run("-c", code, path=installed).returncode == 0


def test_version(installed):
    result = console(installed, "--version")
    assert re.fullmatch(r"eagle-hsd \d+\.\d+\.\d+\n", result.stdout)


def test_an_unknown_command_is_told_what_there_is(installed):
    result = console(installed, "fly")
    assert_one_clear_line(result.returncode, result.stderr, "eagle-hsd has no command 'fly'")
    assert "  demo " in result.stderr


@pytest.mark.parametrize("group", ["trees", "bench"])
def test_groups_list_their_commands(group, capsys):
    start(group)
    assert f"usage: eagle-hsd {group} COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        start(group, "fly")
    assert_one_clear_line(ended.value.code, capsys.readouterr().err, f"eagle-hsd {group} has no command 'fly'")


MISTAKES = [
    ("demo --temperature -1", "temperature is -1.0"),
    ("demo --nonsense", "unrecognized arguments: --nonsense"),
    ("chat --max-new-tokens 0", "max_new_tokens is 0"),
    ("chat --top-p many", "invalid float value: 'many'"),
    (f"train {TRAIN} --num-steps many", "num_steps is 'many'"),
    ("train no-such.yaml", "no-such.yaml"),
    ("train", "the following arguments are required: config"),
    (f"train {TRAIN} --target no/such/place", "no model 'no/such/place'"),
    (f"features {TRAIN} --batches-per-step none", "batches_per_step is 'none'"),
    (f"features {TRAIN} --target no/such/place", "no model 'no/such/place'"),
    ("prepare --shard 5", "shard"),
    ("prepare --prompts no-such.jsonl --target no/such/place", "no model 'no/such/place'"),
    ("prepare --device nonsense", "unknown device 'nonsense'"),
    ("convert no/such/head out --to flat", "no/such/head"),
    ("convert tests out --to cubes", "invalid choice: 'cubes'"),
    ("evaluate --arms nonsense", "nonsense"),
    ("evaluate --limit 0", "limit is 0"),
    ("evaluate --device nonsense --limit 1", "unknown device 'nonsense'"),
    ("trees record --num-questions some", "invalid int value: 'some'"),
    ("trees record --target no/such/place", "no model 'no/such/place'"),
    ("trees compare --contexts no-such.jsonl", "no-such.jsonl"),
    ("trees compare --arms no-such.yaml", "no-such.yaml"),
    ("trees compare --samplings cold", "invalid choice: 'cold'"),
    ("trees fit --contexts no-such.jsonl", "no-such.jsonl"),
    ("bench verify --nodes few", "invalid int value: 'few'"),
    ("bench training --dtype float8", "invalid choice: 'float8'"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_users_mistake_ends_any_command_with_one_line(tmp_path, capsys, command, message):
    words = command.split()
    if words[0] in ("train", "features", "prepare", "evaluate"):
        words += ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        start(*words)
    assert_one_clear_line(ended.value.code, capsys.readouterr().err, message)


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_aliases(script):
    """At most ten lines, and the command they name is there."""
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 10
    entry = re.search(r'run_command\("([\w.:]+)"\)', text)
    assert entry and entry[1] in {*COMMANDS.values(), *TREES.values(), *BENCHES.values(), *HIERARCHY.values()}


def test_a_command_is_called_by_its_whole_name(capsys):
    with pytest.raises(SystemExit) as ended:
        start("convert", "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: eagle-hsd convert ")


def fail_with(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too warm"), "error: too warm\n"),
        (PermissionError(13, "not yours", "there"), "error: [Errno 13] not yours: 'there'\n"),
        (
            ModuleNotFoundError("No module named 'rich'", name="rich.console"),
            "error: package rich is not installed: pip install 'eagle-hsd[chat]'\n",
        ),
        (
            ModuleNotFoundError("No module named 'accelerate'", name="accelerate"),
            "error: package accelerate is not installed: pip install 'eagle-hsd[train]'\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_two(error, line, capsys):
    with pytest.raises(SystemExit) as ended:
        run_or_explain(fail_with(error))
    assert ended.value.code == 2 and capsys.readouterr().err == line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_want_of_memory_is_one_line(error, capsys):
    with pytest.raises(SystemExit) as ended:
        run_or_explain(fail_with(error))
    assert_one_clear_line(ended.value.code, capsys.readouterr().err, "out of memory")


def test_a_message_of_several_lines_is_one(capsys):
    with pytest.raises(SystemExit):
        run_or_explain(fail_with(OSError("no model\n\n  here")))
    assert capsys.readouterr().err == "error: no model here\n"


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ModuleNotFoundError):
        run_or_explain(fail_with(ModuleNotFoundError("No module named 'eagle.oak'", name="eagle.oak")))
    with pytest.raises(AssertionError):
        run_or_explain(fail_with(AssertionError()))


def test_ctrl_c_is_130():
    with pytest.raises(SystemExit) as ended:
        run_or_explain(fail_with(KeyboardInterrupt()))
    assert ended.value.code == 130


def test_an_error_that_ctrl_c_became_is_130():
    """Extension modules turn the interrupt into an error of their own, and the user saw its traceback."""
    error = ImportError("initialization failed")
    error.__cause__ = RuntimeError()
    error.__cause__.__context__ = KeyboardInterrupt()
    with pytest.raises(SystemExit) as ended:
        run_or_explain(fail_with(error))
    assert ended.value.code == 130


SLOW = {
    "importing": "wait()\ndef main(_): ...",
    "importing what swallows it": "try: wait()\nexcept BaseException: pass\ndef main(_): ...",
    "running": "def main(_): wait()",
    "running what clears up": "def main(_):\n  try: wait()\n  finally: raise RuntimeError",
    "ended": "import atexit\natexit.register(wait)\ndef main(_): ...",
}


@pytest.mark.parametrize("moment", SLOW)
def test_ctrl_c_shows_no_traceback_at_any_moment(tmp_path, moment):
    """Importing torch and transformers takes seconds, in which an impatient Ctrl-C printed fifty lines."""
    wait = "import time\ndef wait():\n  print('there', flush=True)\n  time.sleep(20 if moment != 'ended' else 1)\n"
    (tmp_path / "slow.py").write_text(f"moment = {moment!r}\n{wait}{SLOW[moment]}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "from eagle.cli.dispatch import run_command; run_command('slow:main')"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert told.strip() == "" and process.returncode == (0 if moment == "ended" else 130)

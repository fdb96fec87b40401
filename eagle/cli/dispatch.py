"""How a command is found, started and ended: by name, without its imports, and without a traceback.

A command is written "module:function"; its one line in a list is the first line of the module's docstring.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

USER_ERRORS = (ValueError, OSError)  # what loading, options and prompts raise for a caller's mistake
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in torch's RuntimeErrors
INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


def choose(program: str, commands: Mapping[str, str], argv: Sequence[str] | None) -> None:
    """Start the command that the first word names with the words after it.

    Without a word, with --help and with an unknown one (exit code 2) the list of commands is printed.
    """
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {program} COMMAND [flags]\n\n{listed(commands)}\n\n{program} COMMAND --help shows the flags.")
    elif name not in commands:
        print(f"error: {program} has no command '{name}'; it has\n\n{listed(commands)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"{program} {name}", *words]  # what argparse calls the program, and reports call the command
        load_command(commands[name])(words)


def listed(commands: Mapping[str, str]) -> str:
    """One line a command, without importing any."""
    width = max(map(len, commands), default=0)
    return "\n".join(f"  {name:{width}}  {first_line(entry)}" for name, entry in commands.items())


def first_line(entry: str) -> str:
    """The first line of the docstring of a command's module."""
    import ast  # not above: a command that starts needs none of the three
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec(entry.partition(":")[0])
    if spec is None or spec.origin is None:
        return ""
    return (ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def load_command(entry: str) -> Callable[[Sequence[str] | None], Any]:
    """The function that a command names."""
    module, _, function = entry.partition(":")
    with leaving_at_once():
        command: Callable[[Sequence[str] | None], Any] = getattr(import_module(module), function)
    if logging := sys.modules.get("transformers.utils.logging"):
        logging.disable_progress_bar()  # loading a local model takes a second; bars would push the answer away
    return command


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ctrl-C ends the process on the spot: what is half imported raises anything, or prints it and goes on.

    Where SIGINT is ignored, as behind nohup, or in the hands of someone else, it stays so.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(entry: str, argv: Sequence[str] | None = None) -> None:
    """Start one command, as the console command does."""
    run_to_the_end(lambda: load_command(entry)(argv))


def run_to_the_end(main: Callable[[], Any]) -> None:
    """`run_or_explain` for a whole process: a second Ctrl-C, and one while Python shuts down, stay silent too."""
    threading.excepthook = explain_in_thread
    try:
        run_or_explain(main)
    except KeyboardInterrupt:  # while the first one, or an error, was being told
        sys.exit(INTERRUPTED)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_or_explain(main: Callable[[], Any]) -> None:
    """Run a command; a user's mistake becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if comes_of_interrupt(error):
            sys.exit(INTERRUPTED)
        told = explain(error)
        if told is None:
            raise
        print(f"error: {' '.join(told.split())}", file=sys.stderr)
        sys.exit(2)


def explain_in_thread(failed: threading.ExceptHookArgs) -> None:
    """What ends a thread of a library, a full disk say, is one line; the command finds out by itself."""
    told = explain(failed.exc_value) if isinstance(failed.exc_value, Exception) else None
    if told is None:
        threading.__excepthook__(failed)
    else:
        print(f"warning: {' '.join(told.split())}", file=sys.stderr)


def comes_of_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error: extension modules turn it into one of their own."""
    behind = error.__cause__ or error.__context__
    return behind is not None and (isinstance(behind, KeyboardInterrupt) or comes_of_interrupt(behind))


def explain(error: Exception) -> str | None:
    """What is said of something that the user can mend; None for mistakes of our own."""
    if isinstance(error, USER_ERRORS):
        return str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        from eagle.packages import explain_missing

        return explain_missing(error.name or "")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _names_memory(error)):
        return f"out of memory ({str(error)[:200]}): shorter texts, smaller batches, or another device or dtype"
    return None


def _names_memory(error: RuntimeError) -> bool:
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)

"""How a command is found, started and ended: by name, without its imports, and without a traceback.

A command is written "module:function"; its one line in a list is the first line of the module's docstring.
"""

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eagle.packages import explain_missing

USER_ERRORS = (ValueError, OSError)  # what loading, options and prompts raise for a caller's mistake


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
    spec = find_spec(entry.partition(":")[0])
    if spec is None or spec.origin is None:
        return ""
    return (ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def load_command(entry: str) -> Callable[[Sequence[str] | None], Any]:
    """The function that a command names."""
    module, _, function = entry.partition(":")
    command: Callable[[Sequence[str] | None], Any] = getattr(import_module(module), function)
    if logging := sys.modules.get("transformers.utils.logging"):
        logging.disable_progress_bar()  # loading a local model takes a second; bars would push the answer away
    return command


def run_command(entry: str, argv: Sequence[str] | None = None) -> None:
    """Start one command, as the console command does."""
    run_or_explain(lambda: load_command(entry)(argv))


def run_or_explain(main: Callable[[], Any]) -> None:
    """Run a command; a user's mistake becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except USER_ERRORS as error:
        _end(str(error) or type(error).__name__)
    except ModuleNotFoundError as error:
        explained = explain_missing(error.name or "")
        if explained is None:
            raise
        _end(explained)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)

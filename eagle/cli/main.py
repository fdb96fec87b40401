"""The console command `eagle-hsd`: finds commands by the entry points of installed packages and starts them."""

import sys
from collections.abc import Sequence

from eagle.cli.dispatch import choose, run_to_the_end
from eagle.version import __version__

PROGRAM, GROUP = "eagle-hsd", "eagle_hsd.commands"


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return
    run_to_the_end(lambda: choose(PROGRAM, installed_commands(), words))


def installed_commands() -> dict[str, str]:
    """Names and "module:function" of all commands: evaluation's too, which this package must not import."""
    from importlib.metadata import entry_points  # slow to import: Ctrl-C is silent once `main` runs

    return {entry.name: entry.value for entry in sorted(entry_points(group=GROUP))}


if __name__ == "__main__":
    main()

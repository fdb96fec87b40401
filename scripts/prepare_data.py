"""The command `eagle-hsd prepare` as a file."""

from eagle.cli.dispatch import run_command

if __name__ == "__main__":
    run_command("eagle.cli.prepare:main")

"""The command `eagle-hsd demo` as a file."""

from eagle.cli.dispatch import run_command

if __name__ == "__main__":
    run_command("eagle.cli.demo:main")

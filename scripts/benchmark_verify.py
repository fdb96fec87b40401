"""The command `eagle-hsd bench verify` as a file."""

from eagle.cli.dispatch import run_command

if __name__ == "__main__":
    run_command("evaluation.bench.verify:main")

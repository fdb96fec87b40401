"""The command `eagle-hsd bench training` as a file."""

from eagle.cli.dispatch import run_command

if __name__ == "__main__":
    run_command("evaluation.bench.training_step:main")

"""One flag, one field, one YAML key."""

from dataclasses import fields
from pathlib import Path

import pytest

from eagle.options import build, identity, load, parse
from evaluation.arms import find_arm
from evaluation.eval_config import EvalConfig, config_hash
from evaluation.tasks import find_task

FILES = sorted((Path(__file__).parents[2] / "configs" / "eval").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_loads_names_real_things_and_opens_with_its_command(file):
    config = load(EvalConfig, file)
    for task in config.tasks:
        find_task(task)
    for arm in config.arms:
        find_arm(arm, config)
    assert file.read_text().splitlines()[0] == f"# eagle-hsd evaluate --config configs/eval/{file.name}"


def test_flags_go_before_the_file_and_the_file_before_the_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seeds: 5\ntasks: [gsm8k]\ntemperatures: [0, 0.5]\n")
    config = parse(EvalConfig, "", ["--config", str(file), "--tasks", "mt_bench", "humaneval", "--limit", "3"])
    assert (config.tasks, config.seeds, config.temperatures) == (("mt_bench", "humaneval"), 5, (0.0, 0.5))
    assert (config.limit, config.max_new_tokens) == (3, EvalConfig.max_new_tokens)


@pytest.mark.parametrize(("flags", "wanted"), [([], True), (["no"], False), (["true"], True)])
def test_a_yes_or_no_may_stand_alone_on_the_command_line(flags, wanted):
    assert parse(EvalConfig, "", ["--verify-lossless", *flags]).verify_lossless is wanted


def test_every_field_is_a_flag_and_explains_itself(capsys):
    with pytest.raises(SystemExit):
        parse(EvalConfig, "", ["--help"])
    shown = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')}" in shown and field.metadata["help"] for field in fields(EvalConfig))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1}, "unknown option colour"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": 1.5}, "seeds is 1.5, expected a whole number"),
        ({"temperatures": ["warm"]}, "temperatures is 'warm', expected float"),
        ({"temperatures": [-1]}, "temperatures holds -1"),
        ({"arms": []}, "arms is"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "each once"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_wrong_values_are_refused_with_the_value(values, message):
    with pytest.raises(ValueError, match=message):
        build(EvalConfig, values)


def test_the_hash_follows_what_rows_depend_on_and_nothing_else():
    def name(**values):
        return config_hash(identity(EvalConfig(**values)))

    assert name() == name(limit=3, output="x", arms=("hsd",), seeds=9)
    assert len({name(), name(tree="chain"), name(max_new_tokens=3), name(seed=1), name(head="x")}) == 5


@pytest.mark.parametrize("arm", ["medusa", "eagle+nothing", "oak+walk", "+walk"])
def test_unknown_methods_are_refused_by_name(arm):
    with pytest.raises(ValueError, match=r"unknown arm|write TREE\+VERIFIER|unknown tree"):
        find_arm(arm, EvalConfig())

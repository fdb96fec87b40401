"""`demo --check`: both texts, equal or where they part, and an exit code to build upon."""

import re

import pytest
import torch

from eagle.cli import common, demo
from eagle.cli.dispatch import run_or_explain
from eagle.drafters.beside import LookupBeside
from eagle.engine.target import Target
from eagle.judging import ChosenTokens
from tests import tiny_text
from tests.cli.console import assert_one_clear_line, run
from tests.tiny import tiny_head


@pytest.fixture
def loaded(monkeypatch) -> list:
    """Tiny models in place of real ones; the dtypes that were asked for."""
    asked: list = []
    target = Target(tiny_text.target(), tiny_text.tokenizer())

    def load_target(_name, dtype, *_, **__):
        asked.append(dtype)
        return target

    monkeypatch.setattr(common, "load_target", load_target)
    monkeypatch.setattr(common, "load_head", lambda _name, target: tiny_head(target))
    return asked


def checked(*flags: str) -> int:
    """The exit code of the check."""
    try:
        demo.main(["Hello", "--check", "--max-new-tokens", "20", *flags])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("tree", ["auto", "eagle", "coupled", "chain"])
@pytest.mark.parametrize("sampling", [("0",), ("0.7", "--top-p", "0.9"), ("1", "--top-k", "20")])
def test_equal_texts_are_shown_and_counted(loaded, capsys, tree, sampling):
    assert checked("--seed", "7", "--tree", tree, "--temperature", *sampling) == 0
    told = capsys.readouterr().out
    drafted, _, rest = told.partition("plain decoding with the same seed:\n")
    plain, _, rest = rest.partition("equal: 20 tokens\n")
    assert plain.strip() and drafted.endswith(plain) and "speed-up" in rest
    assert loaded == [torch.float32]


def test_at_temperature_zero_every_verifier_can_be_checked(loaded, capsys):
    assert checked("--verifier", "hsd", "--dtype", "bfloat16") == 0
    assert loaded == [torch.bfloat16] and "equal: 20 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_a_lookup_beside_the_head_says_the_same(loaded, capsys, temperature, monkeypatch):
    known, observe = [], LookupBeside.observe
    monkeypatch.setattr(LookupBeside, "observe", lambda one, tokens: known.extend(tokens) or observe(one, tokens))
    assert checked("--lookup", "--temperature", temperature) == 0
    assert "equal: 20 tokens" in capsys.readouterr().out and len(known) > 20


def test_the_seed_reaches_both_arms(loaded, capsys):
    texts = {checked("--temperature", "1", "--seed", seed) or capsys.readouterr().out for seed in ("1", "2")}
    assert len(texts) == 2


def test_texts_that_part_end_with_one_and_the_gap(loaded, capsys, monkeypatch):
    """A field that is one position off where something was drafted."""
    verdict = ChosenTokens.verdict

    def shifted(self, tree, logits, position, context=None):
        return verdict(self, tree, logits, position + (tree.num_nodes > 1), context)

    monkeypatch.setattr(ChosenTokens, "verdict", shifted)
    assert checked("--temperature", "1") == 1
    told = capsys.readouterr().out
    told = re.sub(r"\s+", " ", told)
    assert re.search(r"equal for \d+ tokens, then different: plain '.*' \(\d+\), drafted '.*' \(\d+\), a gap of ", told)
    assert "in float32 (perturbed logits z + T g)" in told


WRONG = {
    "--check --temperature 1 --verifier hsd": "--check does not apply to verifier 'hsd' at temperature 1",
    "--check --plain": "not allowed with argument",
    "--check --no-comparison": "not allowed with argument",
    "--tree coupled --verifier hsd --temperature 1": "verifier 'hsd' does not fit this tree at temperature 1: tree 'c",
    "--verifier block --temperature 1": "verifier 'block' does not fit this tree at temperature 1",
    "--verifier quick": "invalid choice: 'quick'",
    "--lookup --tree chain --verifier block --temperature 1": "verifier 'block' does not fit this tree beside a lookup",
    "--lookup --level lookup": "--lookup stands beside a head, and the lowest level has none",
}


@pytest.mark.parametrize("flags", WRONG)
def test_what_does_not_fit_is_one_line_before_anything_is_loaded(loaded, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        run_or_explain(lambda: demo.main(flags.split()))
    assert_one_clear_line(ended.value.code, capsys.readouterr().err, WRONG[flags])
    assert loaded == []


def test_the_packaged_model_says_the_same_drafted_and_plain():
    flags = ("--temperature", "1", "--seed", "7", "--check", "--tree", "coupled", "--max-new-tokens", "24")
    result = run("scripts/demo.py", "Name three colours.", *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"equal: \d+ tokens", result.stdout) and "float32" in result.stdout


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_penalties_say_the_same_drafted_and_plainly(loaded, capsys, temperature):
    flags = ["--repetition-penalty=1.3", "--presence-penalty=0.4", "--frequency-penalty=0.2", "--min-p=0.02"]
    assert checked("--temperature", temperature, *flags) == 0
    told = capsys.readouterr().out
    assert "repetition penalty 1.3" in told and "equal: 20 tokens" in told
    assert checked("--temperature", temperature) == 0
    assert capsys.readouterr().out.partition("plain decoding")[0] != told.partition("plain decoding")[0]


def test_the_models_own_configuration_is_asked_unless_told_otherwise(loaded, capsys):
    config = vars(common)["load_target"](None, None).model.generation_config
    config.do_sample, config.temperature, config.top_k = True, 0.7, 30
    assert checked() == 0 and "temperature 0.7, top k 30" in capsys.readouterr().out
    assert checked("--temperature", "0.2") == 0 and "temperature 0.2, top k 30" in capsys.readouterr().out
    assert checked("--generation-config", "none") == 0 and "temperature 0\n" in capsys.readouterr().out
    config.typical_p = 0.5
    with pytest.raises(ValueError, match=r"has typical_p = 0\.5, which is not computed here.*--generation-config none"):
        checked()

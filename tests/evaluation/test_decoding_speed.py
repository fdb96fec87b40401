"""The decoding benchmark: arms of several precisions on the same prompts, ratios of sums, llama.cpp as one more arm."""

import pytest
from rich.console import Console

from evaluation.bench import decoding_speed
from evaluation.bench.decoding_speed import DecodeBench, Timed, llama_answer, show, split, summarise


def test_arms_have_a_precision_or_none():
    assert split("cpu-int4/hsd") == ("cpu-int4", "hsd") and split("hsd") == ("", "hsd")
    with pytest.raises(ValueError, match="unknown arm 'hdsd'"):
        DecodeBench(arms=("cpu-int4/hdsd",))


def test_rates_are_ratios_of_sums_paired_by_prompt(capsys):
    """Two prompts: 10 tokens in 1 s and 30 in 2 s, against 10 in 2 s and 30 in 6 s."""
    config = DecodeBench(arms=("autoregressive", "hsd"), temperatures=(0.0,))
    rows = [
        Timed("hsd", 0.0, 0, 10, 5, 1.0),
        Timed("hsd", 0.0, 1, 30, 10, 2.0),
        Timed("autoregressive", 0.0, 0, 10, 10, 2.0),
        Timed("autoregressive", 0.0, 1, 30, 30, 6.0),
    ]
    plain, ours = summarise(rows, config)
    assert ours["tokens_per_pass"] == pytest.approx(40 / 15) and ours["tokens_per_s"]["value"] == pytest.approx(40 / 3)
    over = ours["over"]["autoregressive"]
    assert (
        over["value"] == pytest.approx(8 / 3) and over["low"] == pytest.approx(2) and over["high"] == pytest.approx(3)
    )
    assert plain["over"]["autoregressive"]["low"] == 1.0
    show({"conditions": {"target": "tiny", "options": {}}, "results": [plain, ours]}, config, Console())
    assert "2.67 [2.00, 3.00]" in capsys.readouterr().out


def test_all_arms_answer_every_prompt_on_the_real_target():
    config = DecodeBench(
        arms=("autoregressive", "cpu-int8/hsd"), temperatures=(0.0,), tasks=("gsm8k",), limit=2, max_new_tokens=6
    )
    players = decoding_speed._Players(config)
    rows = list(decoding_speed.measure(config, players, Console(quiet=True)))
    assert {(row.arm, row.prompt) for row in rows} == {(arm, number) for arm in config.arms for number in (0, 1)}
    assert all(row.seconds > 0 and 0 < row.tokens <= 5 for row in rows)
    assert players.conditions()["options"]["limit"] == 2


class FakeLlama:
    """What llama-cpp-python offers of what is used."""

    def reset(self): ...

    def set_seed(self, seed):
        self.seed = seed

    def token_eos(self):
        return 2

    def generate(self, ids, **options):
        assert options["top_k"] == 0 and options["repeat_penalty"] == 1.0
        yield from (7, 8, 2, 9)


def test_llama_cpp_is_counted_as_the_others_are():
    """The first token belongs to no round; the end of text is the last."""
    answer = llama_answer(FakeLlama(), [1, 2], 1.0, 10, 2**40)
    assert answer.tokens == (7, 8, 2) and answer.rounds == 2 and answer.num_decoded == 2
    assert len(llama_answer(FakeLlama(), [1, 2], 1.0, 2, 0).tokens) == 2


def test_llama_cpp_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    with pytest.raises(ValueError, match="needs llama-cpp-python"):
        decoding_speed._open_llama(DecodeBench())

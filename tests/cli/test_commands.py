"""Commands as a user runs them: what they print, and one clear line with a non-zero exit when something is wrong."""

import pytest

from tests.cli.console import assert_one_clear_line, run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "-1"], "temperature is -1.0, it must be 0 (greedy) or larger"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--target", "no/such/place"], "no model 'no/such/place'"),
        (["--target", "missing.gguf"], "no GGUF file at 'missing.gguf'"),
        (["--tree", "oak"], "unknown tree 'oak': choose one of auto, eagle"),
        (["--head", "tests"], "no draft head in"),
        (["word " * 9000], "exceed the target's context of 8192 tokens"),
        (["--device", "nonsense"], "nonsense"),
    ],
)
def test_a_users_mistake_is_one_clear_line(flags, message):
    result = run("scripts/demo.py", *flags)
    assert_one_clear_line(result.returncode, result.stderr, message)


def test_the_demo_answers_and_prints_its_numbers():
    result = run("scripts/demo.py", "Name three colours.", "--max-new-tokens", "24", "--dtype", "float32")
    assert result.returncode == 0, result.stderr
    for word in ("SmolLM2-135M-Instruct on", "float32", "tau", "block efficiency", "tokens/s", "speed-up", "plain"):
        assert word in result.stdout


def test_chat_remembers_resets_and_ends():
    lines = "My name is Ada. Say hi.\n/stats\n/reset\n/unknown\nHello\n/quit\n"
    result = run("scripts/chat.py", "--max-new-tokens", "8", stdin=lines)
    assert result.returncode == 0, result.stderr
    assert "rounds, tau" in result.stdout and "(new conversation)" in result.stdout

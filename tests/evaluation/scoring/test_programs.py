"""Reading programs as models write them."""

import math

import pytest

from evaluation.scoring.answers import program
from evaluation.scoring.programs import code_blocks

PROMPT = 'import math\n\ndef helper(x):\n    return x\n\ndef area(r):\n    """Area of a circle."""\n'
BODY = "    return math.pi * r ** 2\n"
WHOLE = f"def area(r):\n{BODY}"
ANSWERS = {
    "a whole function in a block": "Sure!\n```python\ndef area(r):\n    return math.pi * helper(r) ** 2\n```\nDone.",
    "the second block holds it": f"```\npip install x\n```\n```py\n{WHOLE}```",
    "a body alone": BODY,
    "a body that lost its first margin": "r = r * r\n    return math.pi * r",
    "a body without margins": "r = r * r\nreturn math.pi * r",
    "a body in a block": f"```python\n{BODY}```",
    "a body without margins in a block": "```python\nif r < 0:\n    return 0\nreturn math.pi * r ** 2\n```",
    "a block that is not closed": f"```python\n{WHOLE}",
    "no block": WHOLE,
    "no block, in prose": f"Sure! Here it is:\n\n{WHOLE}\nIt returns pi times r squared.",
    "another name of the language": f"```python3\n{WHOLE}```",
    "a loud name of the language": f"```PYTHON\n{WHOLE}```",
    "more behind the language": f'```python title="area.py" {{1,2}}\n{WHOLE}```',
    "no language": f"```\n{WHOLE}```",
    "tildes": f"~~~python\n{WHOLE}~~~",
    "four marks around three": f"````\n{WHOLE}````",
    "an indented block": "1. The function:\n\n   ```python\n   def area(r):\n       return math.pi * r ** 2\n   ```\n",
    "a block in an item": f"- ```python\n{WHOLE}```",
    "fences in the docstring": (
        '```python\ndef area(r):\n  """\n  ```\n  area(1)\n  ```\n  """\n  return math.pi * r ** 2\n```\nand so on'
    ),
    "a fence with a language in the docstring": (
        '```python\ndef area(r):\n    """Such as\n```python\narea(1)\n```\n"""\n    return math.pi * r ** 2\n```'
    ),
    "a helper in an earlier block": (
        "```python\ndef square(x):\n    return x * x\n```\n```python\ndef area(r):\n    return math.pi * square(r)\n```"
    ),
    "a helper, an import and a constant in later blocks": (
        "```python\ndef area(r):\n    return P * square(r)\n```\nwith\n"
        "```python\nfrom math import pi as PI\nP = PI\n```\n"
        "```python\ndef square(x):\n    return x * x\nprint(area(input()))\n```"
    ),
    "the question, then the answer": (
        f'```python\ndef area(r):\n    """Area."""\n```\nI would write\n```python\n{WHOLE}```'
    ),
    "an example that fails, in another block": f"```python\n{WHOLE}```\n```python\narea(None)\n```",
    "a main block": f"```python\n{WHOLE}\nif __name__ == '__main__':\n    print(area(float(input())))\n```",
    "line ends of Windows": f"```python\n{WHOLE}```".replace("\n", "\r\n"),
    "a longer name first": f"```python\ndef area_of_square(r):\n    return r * r\n```\n```python\n{WHOLE}```",
    "a future import": f"```python\nfrom __future__ import annotations\n{WHOLE}```",
    "a value": "```python\narea = lambda r: math.pi * r ** 2\n```",
    "an async helper": f"```python\nasync def other(): pass\n{WHOLE}```",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_programs_are_found_and_keep_what_the_prompt_defines(answer):
    names: dict = {"__name__": "__main__"}
    exec(program(ANSWERS[answer], PROMPT, "area"), names)
    assert names["area"](2) == pytest.approx(4 * math.pi)


def test_prompts_of_windows_and_with_other_margins_are_continued():
    for prompt in (PROMPT.replace("\n", "\r\n"), PROMPT.replace("    ", "  "), PROMPT.replace("    ", "\t")):
        for answer in (WHOLE, "return math.pi * r ** 2", f"```\n{WHOLE}```"):
            names: dict = {}
            exec(program(answer, prompt, "area"), names)
            assert names["area"](2) == pytest.approx(4 * math.pi)


@pytest.mark.parametrize(
    "answer", ["", "I do not know.", "```python\ndef area(r:\n```", "```", "\0", "(" * 9999, "\ud800"]
)
def test_an_answer_without_a_program_gives_a_text_all_the_same(answer):
    assert isinstance(program(answer, PROMPT, "area"), str)


def test_the_first_version_that_is_written_out_counts():
    answer = f"```python\n{WHOLE}```\nOr with a unit:\n```python\ndef area(r, unit):\n    return unit\n```"
    assert "unit" not in program(answer, PROMPT, "area")


def test_text_between_blocks_is_none():
    assert list(code_blocks("a\n```\nb\n```\nc\n~~~ js\nd(\n~~~\ne")) == ["b", "d("]

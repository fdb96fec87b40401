"""Reading answers: numbers as people write them, programs as models write them."""

from decimal import Decimal

import pytest

from evaluation.scoring.answers import final_number, program, same_number

NUMBERS = {
    "so 3 apples and 4 pears make 7": "7",
    "#### 18": "18",
    "She has 5 left.\n#### 1,234.50\nThat took 2 steps.": "1234.50",
    "#### -3": "-3",
    "#### $1,000,000": "1000000",
    "the change is \N{MINUS SIGN}12 degrees": "-12",
    "The answer is: **42**. I used 3 equations.": "42",
    r"thus \boxed{-0.25} holds, since 7 > 3": "-0.25",
    "The final answer is $ 17.": "17",
    "it costs $2.50.": "2.50",
    "about .5 of it": "0.5",
    "1,2 and 3": "3",
    "in 2024, they had 1,024": "1024",
    "5 * 2 = <<5*2=10>>10\n#### 10": "10",
    "#### 3\n#### 4": "4",
}


@pytest.mark.parametrize("text", NUMBERS)
def test_the_number_an_answer_settles_on(text):
    assert final_number(text) == Decimal(NUMBERS[text])


@pytest.mark.parametrize("text", ["", "no idea", "####", "x - y"])
def test_an_answer_without_a_number_has_none_and_is_wrong(text):
    assert final_number(text) is None
    assert not same_number(text, "0")


def test_equal_values_in_other_clothes_are_the_same_and_near_ones_are_not():
    assert same_number("#### 18.00", "18") and same_number("$1,000", "#### 1000")
    assert not same_number("#### 18.01", "18") and not same_number("#### -18", "18")


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(ValueError, match="holds no number"):
        same_number("1", "eighteen")


PROMPT = 'import math\n\ndef helper(x):\n    return x\n\ndef area(r):\n    """Area of a circle."""\n'
ANSWERS = {
    "a whole function in a block": "Sure!\n```python\ndef area(r):\n    return math.pi * helper(r) ** 2\n```\nDone.",
    "the second block holds it": "```\npip install x\n```\n```py\ndef area(r):\n    return math.pi * r * r\n```",
    "a body alone": "    return math.pi * r ** 2\n",
    "a block that is not closed": "```python\ndef area(r):\n    return math.pi * r ** 2",
    "no block": "def area(r):\n    return math.pi * r ** 2",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_programs_are_found_and_keep_what_the_prompt_defines(answer):
    names: dict = {}
    exec(program(ANSWERS[answer], PROMPT, "area"), names)
    assert names["area"](2) == pytest.approx(12.566, abs=1e-3)

"""Reading answers: numbers as people write them."""

from decimal import Decimal

import pytest

from evaluation.scoring.answers import final_number, same_number

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
    r"\boxed{\frac{1}{2}}": "0.5",
    r"so $\boxed{\dfrac{3}{4}}$ of it": "0.75",
    r"$\boxed{-\frac{1}{2}}$": "-0.5",
    r"\boxed{2\frac{1}{2}}": "2.5",
    r"\boxed{\frac12}": "0.5",
    r"so $\boxed{\$18.00}$": "18",
    r"\boxed{18\text{ dollars}}": "18",
    r"\boxed{\text{18}}": "18",
    r"\boxed{1{,}234}": "1234",
    r"\boxed{x = 5}": "5",
    r"\boxed{5 + 3 = 8}": "8",
    r"\boxed{50\%}": "50",
    r"\boxed{3}. Then \boxed{4}": "4",
    r"Final Answer: \(18\)": "18",
    "5 + 3 = 8": "8",
    "#### 5 + 3 = 8": "8",
    "#### 5 + 3 = **8**": "8",
    "#### 2 * (3 + 4) = 14": "14",
    "#### 8 = 5 + 3": "8",
    "The answer is 5 + 3 = 8 apples. I used 3 steps": "8",
    "The answer is $5 + $3 = $8": "8",
    "The answer is 5 \N{MULTIPLICATION SIGN} 3 = 15.": "15",
    "The answer is x = 7": "7",
    "15 - 3": "3",
    "7-10=-3": "-3",
    "#### 18 dollars": "18",
    "#### 60 miles/hour": "60",
    "#### **18**": "18",
    "**18**": "18",
    "**Answer: 18**": "18",
    "The answer is:\n\n**18**\n": "18",
    "18.": "18",
    "The answer is **$18.00**.": "18",
    "#### $1,080.00": "1080",
    "#### +5": "5",
    "the change is $-5": "-5",
    "18 USD": "18",
    "it is 18%": "18",
    "#### 1/2": "0.5",
    "The answer is 3/4 of it": "0.75",
    "#### 2 1/2": "2.5",
    "10/4": "2.5",
    "#### .5": "0.5",
    "#### The answer is 18": "18",
    "#### 18\n####": "18",
    "#### 1. Find\nso 4\n#### 2. Add\nThe total is 9": "9",
    "#### Step 1: add 5 and 3\n5 + 3 = 8\n#### Step 2: double\nso 16": "16",
    "between 10-15": "15",
    "room 3b and 7": "7",
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
    assert same_number(r"\boxed{\frac{2}{6}}", "#### 1/3") and not same_number("1/0", "0") and not same_number("", "0")


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(ValueError, match="holds no number"):
        same_number("1", "eighteen")

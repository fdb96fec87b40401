"""Right or wrong: the number a GSM8K answer ends with, and the program a HumanEval answer holds."""

import re
from decimal import Decimal, InvalidOperation

_NUMBER = r"[-+]?\s?[$€£]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"
_MARKED = (  # most explicit first
    re.compile(rf"####\s*({_NUMBER})"),
    re.compile(rf"\\boxed\{{\s*({_NUMBER})"),
    re.compile(rf"(?:final answer|answer)\b(?:\s+is|\s*:|\s*=)+[\s*]*({_NUMBER})", re.IGNORECASE),
)
_ANY = re.compile(r"(?<![\w.,])-?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.,])-?\.\d+")
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def final_number(text: str) -> Decimal | None:
    """The number an answer settles on: behind `####`, in a box, behind "answer is", or else the last one.

    Knows signs, decimals, thousands separated by commas, and currency signs. None when there is no number.
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    for pattern in _MARKED:
        numbers = [n for n in map(to_number, pattern.findall(text)) if n is not None]
        if numbers:
            return numbers[-1]
    numbers = [n for n in map(to_number, _ANY.findall(text)) if n is not None]
    return numbers[-1] if numbers else None


def to_number(text: str) -> Decimal | None:
    """The number a piece of text spells, None when it spells none."""
    cleaned = re.sub(r"[\s,$€£]", "", text)
    try:
        return Decimal(cleaned)
    except InvalidOperation:
        return None


def same_number(text: str, reference: str) -> bool:
    """Whether the answer settles on the reference's value; 18, 18.0 and $18 are the same."""
    expected = final_number(reference)
    if expected is None:
        raise ValueError(f"the reference {reference!r} holds no number: is this file GSM8K?")
    return final_number(text) == expected


def program(answer: str, prompt: str, entry_point: str) -> str:
    """The candidate program: a whole function where the answer holds one, else the prompt continued by it.

    The prompt stands in front in both cases, because imports and helpers of the problem live there.
    """
    blocks = _FENCE.findall(answer)
    code = next((b for b in blocks if f"def {entry_point}" in b), blocks[0] if blocks else answer)
    if f"def {entry_point}" in code:
        return f"{_stub(prompt)}\n\n{code}"
    return prompt + code


def _stub(prompt: str) -> str:
    """The prompt as a valid program: its last function has a signature and a docstring, so `pass` completes it."""
    return prompt.rstrip() + "\n    pass\n"

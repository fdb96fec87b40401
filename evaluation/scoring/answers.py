"""Right or wrong: the number a GSM8K answer ends with. The program a HumanEval answer holds: `programs.py`."""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from evaluation.scoring.programs import program

__all__ = ["final_number", "program", "same_number", "to_number"]

_CURRENCY = r"[$€£¥]"
_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_PLAIN = rf"(?:\d+\s+\d+\s*/\s*\d+|(?:{_AMOUNT})(?:\s*/\s*(?:{_AMOUNT}))?)"  # 2 1/2, 3/4, 1,234.5
_NUMBER = rf"[-+]?\s?{_CURRENCY}?\s?[-+]?{_PLAIN}"
_OPERATION = r"[ \t]*[-+*/x][ \t]*"
_SUM = r"(?:[-+*/x(),\d $€£¥%]|\.(?=\d))+"
# what may follow "the answer is": perhaps a name, perhaps a sum, and the number it comes to
_VALUE = rf"(?:[A-Za-z]\w*\s*=\s*)?(?:{_SUM}=\s*)*({_NUMBER})(?![\d,.]*\d)(?!{_OPERATION}{_NUMBER})"
_LEAD = r"(?:(?:approximately|about|therefore|thus|simply|equal to|equals|USD|only)\s+)*"
_MARKED = (  # most explicit first
    re.compile(
        rf"####\s*(?:(?:the\s+)?(?:final\s+)?answer\s*(?:is)?\s*[:=]?\s*)?{_LEAD}{_VALUE}(?![.):]\s+[A-Z])", re.I
    ),
    re.compile(rf"\\boxed<\s*{_LEAD}{_VALUE}", re.I),
    re.compile(rf"(?:final answer|answer)\b(?:\s+is|\s*:|\s*=)+\s*{_LEAD}{_VALUE}", re.I),
)
_ANY = re.compile(rf"(?<![\w.,/])-?(?:{_CURRENCY}[ -]?)?{_PLAIN}(?!\w*/)")
_MARKUP = (  # what dresses numbers up, and what it stands for
    (re.compile("[\N{MINUS SIGN}\N{EN DASH}](?=\\s?[\\d$.])"), "-"),
    (re.compile(r"\*\*|__|`|\\[()\[\],;!]|\\(?:left|right|displaystyle)\b"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("\N{MULTIPLICATION SIGN}|\N{MIDDLE DOT}|\\\\(?:times|cdot)\\b"), "*"),
    (re.compile("\N{DIVISION SIGN}|\\\\div\\b"), "/"),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=\d)\s*\\[dt]?frac"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\s*\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"\\(?:boxed|fbox)\s*\{"), r"\\boxed<"),
)


def final_number(text: str) -> Decimal | None:
    """The number an answer settles on: behind `####`, in a box, behind "answer is", or else the last one.

    Knows signs, decimals, fractions, thousands separated by commas, currency signs, emphasis and LaTeX; of a sum with
    its result it takes the result. None when there is no number.
    """
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    for found in (*(pattern.findall(text) for pattern in _MARKED), _ANY.findall(text)):
        numbers = [number for number in map(to_number, found) if number is not None]
        if numbers:
            return numbers[-1]
    return None


def to_number(text: str) -> Decimal | None:
    """The number a piece of text spells, None when it spells none; a fraction to 28 digits."""
    cleaned = re.sub(rf"{_CURRENCY}|,", "", text).strip()
    sign = -1 if cleaned.startswith("-") else 1
    try:
        return sign * sum(map(_quotient, _terms(cleaned)), Decimal(0))
    except (InvalidOperation, ZeroDivisionError, ValueError):
        return None


def _terms(text: str) -> Iterator[str]:
    """The whole part and the fraction of a mixed number; of others the number itself."""
    words = re.sub(r"\s*/\s*", "/", text.lstrip("+- ")).split()
    if not words or len(words) > 2 or (len(words) == 2 and "/" not in words[1]):
        raise ValueError(f"{text!r} is no number")
    yield from words


def _quotient(text: str) -> Decimal:
    number, slash, divisor = text.partition("/")
    return Decimal(number) / Decimal(divisor) if slash else Decimal(number)


def same_number(text: str, reference: str) -> bool:
    """Whether the answer settles on the reference's value; 18, 18.0 and $18 are the same."""
    expected = final_number(reference)
    if expected is None:
        raise ValueError(f"the reference {reference!r} holds no number: is this file GSM8K?")
    return final_number(text) == expected

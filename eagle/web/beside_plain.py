"""An answer beside plain decoding's of the same prompt: texts, speeds, and whether the tokens are the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from eagle.agreement import parting
from eagle.chat import Piece
from eagle.web.panel import Numbers
from eagle.web.transcript import coloured


@dataclass(frozen=True)
class BesidePlain:
    """Both answers of one prompt; the plain one may still be under way."""

    drafted: Sequence[Piece]
    plain: Sequence[Piece]
    numbers: Numbers
    verdict: str = ""  # empty: not known yet


def agreement_of(plain: Sequence[int], drafted: Sequence[int], same_text: bool, exact: bool) -> str:
    """In words, for the tokens of both. `same_text`: they should be equal, `exact`: in this precision to the last.

    Where one was stopped early, what both have is compared.
    """
    if not same_text:
        return "another draw of the same law: this verifier's texts are not plain decoding's"
    shorter = min(len(plain), len(drafted))
    parted = parting(plain[:shorter], drafted[:shorter])
    if parted is None:
        return f"the same {shorter} tokens"
    near_tie = "" if exact else ": near ties flip in half precision, --dtype float32 has none"
    return f"the same {parted.position} tokens, then different ones{near_tie}"


def beside_html(shown: BesidePlain) -> str:
    stats, plain = shown.numbers.stats, shown.numbers.plain
    columns = [("drafted and verified", stats, shown.drafted), ("plain decoding", plain, shown.plain)]
    cells = "".join(
        f'<div><div class="hsd-small">{name}: {0 if s is None else s.tokens_per_s:.1f} tokens/s</div>'
        f'<div class="hsd-answer">{coloured(pieces)}</div></div>'
        for name, s, pieces in columns
    )
    return f'<div class="hsd-beside">{cells}</div><div class="hsd-verdict">{shown.verdict}</div>'

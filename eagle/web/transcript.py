"""A conversation as HTML in which every text is text: nothing that anybody wrote is ever markup.

Texts of users and models pass through `plain`, the only way from a text into the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from eagle.chat import Piece

EMPTY = (
    "Ask something. What the head drafted and the target accepted is <mark>green</mark>; the rest was written by the "
    "target itself."
)


@dataclass
class Turn:
    """A question, its answer so far, and what is to be said of it."""

    question: str
    pieces: list[Piece] = field(default_factory=list)
    note: str = ""  # such as "stopped"
    error: str = ""  # the answer did not come about: not part of the conversation

    @property
    def answer(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def plain(text: str) -> str:
    """Text -> HTML that shows it letter by letter, in content and in attributes."""
    return escape(text, quote=True)


def coloured(pieces: Sequence[Piece]) -> str:
    """An answer, accepted text marked."""
    runs = ((accepted, plain("".join(p.text for p in run))) for accepted, run in groupby(pieces, lambda p: p.accepted))
    return "".join(f"<mark>{text}</mark>" if accepted else f"<span>{text}</span>" for accepted, text in runs)


def conversation_html(turns: Sequence[Turn], running: bool = False) -> str:
    """All turns; of a running answer the end is marked."""
    if not turns:
        return f'<div class="hsd-empty">{EMPTY}</div>'
    parts = [_turn_html(turn, running and turn is turns[-1]) for turn in turns]
    return f'<div class="hsd-talk" role="log">{"".join(parts)}</div>'


def _turn_html(turn: Turn, running: bool) -> str:
    parts = [f'<div class="hsd-you">{plain(turn.question)}</div>']
    if turn.pieces or running:
        cursor = '<i class="hsd-cursor"></i>' if running else ""
        parts.append(f'<div class="hsd-answer">{coloured(turn.pieces)}{cursor}</div>')
    if turn.note:
        parts.append(f'<div class="hsd-note">{plain(turn.note)}</div>')
    if turn.error:
        parts.append(f'<div class="hsd-error" role="alert">{plain(turn.error)}</div>')
    return "".join(parts)

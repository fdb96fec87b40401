"""The numbers of an answer, live, and of plain decoding beside it."""

from base64 import b64encode
from dataclasses import dataclass

from eagle.stats import DecodeStats
from eagle.web.seen_round import SeenRound
from eagle.web.transcript import plain

DASH = "\N{EN DASH}"
TOLD = {
    "tau": "accepted draft tokens a round, without the verifier's own token",
    "block efficiency": "tokens a pass of the target, with that token",
    "tokens/s": "after the first token, decoding alone: neither this page nor the answers of others",
    "speed-up": "over plain decoding of the same prompt: press Compare",
}


@dataclass(frozen=True)
class Numbers:
    """What the panel shows; None where nothing was measured yet."""

    stats: DecodeStats | None = None
    plain: DecodeStats | None = None  # of the same prompt without a draft

    @property
    def speedup(self) -> float | None:
        if self.stats is None or self.plain is None or not self.plain.tokens_per_s:
            return None
        return self.stats.tokens_per_s / self.plain.tokens_per_s

    def tiles(self) -> dict[str, str]:
        stats, speedup = self.stats, self.speedup
        told = dict.fromkeys(TOLD, DASH)
        if stats is not None and stats.rounds:
            told["tau"] = f"{stats.tau:.2f}"
            told["block efficiency"] = f"{stats.block_efficiency:.2f}"
            told["tokens/s"] = f"{stats.tokens_per_s:.1f}"
        if speedup is not None:
            told["speed-up"] = f"{speedup:.2f}\N{MULTIPLICATION SIGN}"
        return told

    def small_print(self) -> str:
        if self.stats is None:
            return ""
        counted = f"{self.stats.rounds} rounds, {self.stats.num_tokens + 1} tokens"
        return f"{counted}, first token after {self.stats.prefill_s:.2f} s"


def panel_html(numbers: Numbers) -> str:
    """Four numbers, what they mean where the mouse rests, and the small print."""
    tiles = "".join(
        f'<div class="hsd-tile" title="{TOLD[name]}" data-number="{name}"><b>{value}</b><span>{name}</span></div>'
        for name, value in numbers.tiles().items()
    )
    return f'<div class="hsd-tiles">{tiles}</div><div class="hsd-small">{plain(numbers.small_print())}</div>'


def round_html(seen: SeenRound | None, number: int, png: bytes | None) -> str:
    """A round's tree as a picture that carries itself: no file is left anywhere."""
    if seen is None or png is None:
        return '<div class="hsd-empty">The draft trees of the last answer are shown here, round by round.</div>'
    told = f"Round {number}: {len(seen.path)} of {seen.num_drafted} drafted tokens accepted"
    law = "at temperature 1" if seen.at_one else "under its law"
    head = f"{told}. Numbers are the target's probabilities {law}, after the token before."
    image = f'<img alt="{plain(told)}" src="data:image/png;base64,{b64encode(png).decode()}">'
    return f'<div class="hsd-small">{plain(head)}</div><div class="hsd-tree">{image}</div>'

"""How a single token is written: its text, and its bytes where it is only a part of a character."""

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from eagle.text import UNFINISHED

BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # of tokenizers of SentencePiece
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes in place of a space


class Spelling:
    """Of one tokenizer's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self.text = lru_cache(maxsize=4096)(self._text)
        self.bytes = lru_cache(maxsize=4096)(self._bytes)

    def _text(self, token: int) -> str:
        text = str(self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        raw = self._raw(token)
        return f" {text}" if raw.startswith(SPACE) and not text.startswith(" ") else text

    def _bytes(self, token: int) -> bytes:
        raw, text = self._raw(token), self._text(token)
        if UNFINISHED not in text:
            return text.encode()
        if found := BYTE.fullmatch(raw):
            return bytes([int(found[1], 16)])
        letters = byte_letters()
        return bytes(letters[letter] for letter in raw) if all(letter in letters for letter in raw) else text.encode()

    def _raw(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token))


@lru_cache(maxsize=1)
def byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: printable ones as they are, the others from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    others = (number for number in range(256) if number not in plain)
    return {chr(number): number for number in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}

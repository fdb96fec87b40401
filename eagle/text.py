"""Tokens -> text while they arrive: incremental detokenising and stop strings."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

CHARACTER_BYTES = 4  # of the longest UTF-8 character: so many tokens that are none yet will never be one
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer prints for the first bytes of a longer character


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that are left out of text: ends of turns, beginnings of text and the like."""
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids) | frozenset(added)


def stop_ids(tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> frozenset[int]:
    """Stop strings that are one special token: they are left out of text, so that only their ids can be seen.

    Raises ValueError for a stop string that no text can hold.
    """
    for stop in stops:
        if any("\ud800" <= letter <= "\udfff" for letter in stop):
            raise ValueError(f"stop string {stop!a} holds half a character: write it anew")
    ids = (tokenizer(stop, add_special_tokens=False)["input_ids"] for stop in stops if stop)
    return frozenset(found[0] for found in ids if len(found) == 1) & special_ids(tokenizer)


class Detokenizer:
    """Text of one token sequence, token by token. The pieces add up to the text of the whole sequence.

    A token's text can depend on the tokens before it (leading spaces, characters of several bytes), so each push
    decodes a short window and returns what the new token added.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._ids: list[int] = []
        self._window = 0  # first id of the decoded window
        self._read = 0  # ids whose text has been returned

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished, and for special tokens.

        Those are no part of the window either: a window that begins behind one would lose the space of a word.
        """
        if token in self._special:
            return ""
        self._ids.append(token)
        end = len(self._ids)
        if self._decode(self._ids[self._window :]).endswith(UNFINISHED):
            end -= CHARACTER_BYTES - 1  # what is older is broken for good; the rest may still become a character
        return self._read_to(end)

    def flush(self) -> str:
        """What is left at the end, unfinished characters included."""
        return self._read_to(len(self._ids))

    def _read_to(self, end: int) -> str:
        if end <= self._read:
            return ""
        before = self._decode(self._ids[self._window : self._read])
        text = self._decode(self._ids[self._window : end])
        self._window, self._read = self._read, end
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may turn out to be the start of one."""

    def __init__(self, stops: Sequence[str] = ()):
        if any(not stop for stop in stops):
            raise ValueError("a stop string is empty: remove it")
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is safe to show. After `found` is set nothing more comes out."""
        if self.found:
            return ""
        self._held += text
        starts = [start for start in map(self._held.find, self._stops) if start >= 0]
        self.found = bool(starts)
        safe = min(starts) if starts else len(self._held) - self._num_held()
        shown, self._held = self._held[:safe], "" if starts else self._held[safe:]
        return shown

    def flush(self) -> str:
        """What was held back for nothing."""
        held, self._held = self._held, ""
        return held

    def _num_held(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        lengths = (n for stop in self._stops for n in range(1, len(stop)) if self._held.endswith(stop[:n]))
        return max(lengths, default=0)


def bad_word_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Ids of words as they stand at the start of a text and behind a space, for `Sampling.bad_words`; as in vLLM.

    What a word is made of there can be written by other tokens too, which no list of ids forbids. Raises ValueError for
    an empty word.
    """
    if any(not word.strip() for word in words):
        raise ValueError("a bad word is empty: remove it")
    texts = (text for word in words for text in (word.lstrip(), f" {word.lstrip()}"))
    return tuple(dict.fromkeys(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts))

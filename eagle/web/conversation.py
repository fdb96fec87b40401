"""One browser's conversation: turns, the rounds of the last answer, and plain decoding beside it.

Texts of all turns are kept, of rounds only small numbers and only those of the last answer. Chats, which hold caches,
are made when they are needed and can be let go of at any time: the next answer reads the conversation anew.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from eagle.chat import Chat, Piece
from eagle.decode import Step
from eagle.judging import COUPLED, settled
from eagle.options import build
from eagle.prompting import Message
from eagle.stats import DecodeStats
from eagle.web.answer_settings import AnswerSettings
from eagle.web.beside_plain import BesidePlain, agreement_of
from eagle.web.decoding_thread import DecodingThread
from eagle.web.panel import Numbers
from eagle.web.seen_round import SeenRound, seen_round
from eagle.web.transcript import Turn

KEPT_ROUNDS = 512  # of the last answer: a few kB each
BUSY = "an answer is under way: stop it, or wait for its end"


class ChatMaker(Protocol):
    """Chats over models that are loaded once; raises ValueError for settings that do not fit."""

    def make(self, settings: AnswerSettings, plain: bool = False) -> Chat: ...


def only_values(error: Exception) -> str | None:
    return str(error) if isinstance(error, ValueError) else None


@dataclass(frozen=True)
class LastAnswer:
    """What plain decoding repeats."""

    messages: Sequence[Message]  # up to the question
    settings: AnswerSettings
    tokens: Sequence[int]
    same_text: bool  # plain decoding of the same seed has these very tokens


class Conversation:
    """State of one browser session. Answers come one at a time; `stop` and `clear` may be called from anywhere."""

    def __init__(
        self, maker: ChatMaker, thread: DecodingThread, explain: Callable[[Exception], str | None] = only_values
    ):
        """explain: what a visitor is told of an error; None for mistakes of ours, which are raised."""
        self._maker, self._thread, self._explain = maker, thread, explain
        self._one_answer, self._stopped = threading.Lock(), threading.Event()
        self._chat: Chat | None = None
        self._settings: AnswerSettings | None = None  # of the chat
        self._forget()

    def _forget(self) -> None:
        self.turns: list[Turn] = []
        self.rounds: deque[tuple[int, SeenRound]] = deque(maxlen=KEPT_ROUNDS)  # by number, from 1
        self.numbers = Numbers()
        self.beside: BesidePlain | None = None
        self._last: LastAnswer | None = None

    @property
    def running(self) -> bool:
        return self._one_answer.locked()

    def stop(self) -> None:
        """The answer under way ends behind this round; what was said stays."""
        self._stopped.set()

    def clear(self) -> None:
        """An empty conversation; an answer under way ends unheard."""
        self.stop()
        self._chat = None
        self._forget()

    def let_go(self) -> None:
        """Give the caches back, and keep the texts."""
        if not self.running:
            self._chat = None

    def answer(self, question: str, fields: Mapping[str, Any]) -> Iterator[None]:
        """Yields whenever there is something new to show. Errors of the visitor's become part of the turn.

        fields: of `AnswerSettings`. Raises ValueError while another answer is under way.
        """
        with self._alone():
            self.turns[:] = [turn for turn in self.turns if not turn.error]
            turn = Turn(question)
            self.turns.append(turn)
            self.rounds.clear()
            self.beside, self._last, self.numbers = None, None, Numbers()
            try:
                yield
                yield from self._stream(turn, build(AnswerSettings, fields))
            except Exception as error:
                turn.error = self._told(error)
            yield

    def compare(self) -> Iterator[None]:
        """Plain decoding of the last question beside its answer; yields whenever there is something new to show.

        Raises ValueError where there is no answer to compare, and while one is under way.
        """
        with self._alone():
            if self._last is None or not self.turns:
                raise ValueError("there is no answer to compare yet: ask something first")
            last, drafted, plain = self._last, self.turns[-1].pieces, []
            chat = self._thread.run(lambda: self._maker.make(last.settings, plain=True))
            for piece in self._pieces(chat, last.messages):
                plain.append(piece)
                self._show_beside(drafted, plain, chat.stats)
                yield
            told = agreement_of(chat.tokens, last.tokens, last.same_text, chat.target.dtype.itemsize > 2)
            self._show_beside(drafted, plain, chat.stats, told)
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One answer at a time: a second one is refused and not kept waiting."""
        if not self._one_answer.acquire(blocking=False):
            raise ValueError(BUSY)
        self._stopped.clear()
        try:
            yield
        finally:
            self._one_answer.release()

    def _stream(self, turn: Turn, settings: AnswerSettings) -> Iterator[None]:
        messages = [*self._messages(settings), {"role": "user", "content": turn.question}]
        chat = self._thread.run(lambda: self._chat_for(settings))
        turns, rounds = self.turns, self.rounds  # cleared meanwhile, others stand in their place
        for piece in self._pieces(chat, messages, lambda step: _note(step, rounds, chat)):
            turn.pieces.append(piece)
            if turns is self.turns:
                self.numbers = Numbers(chat.stats)
            yield
        if self._stopped.is_set():
            turn.note = "stopped"
        elif chat.finish in ("length", "context"):
            turn.note = "ended by the length limit" if chat.finish == "length" else "the context is full"
        if turns is self.turns:
            self._last = LastAnswer(messages, settings, tuple(chat.tokens), _has_plain_text(chat))

    def _pieces(
        self, chat: Chat, messages: Sequence[Message], watch: Callable[[Step], None] = lambda step: None
    ) -> Iterator[Piece]:
        """An answer of one of our chats, until its end or until it is stopped."""
        pieces = chat.stream(messages, on_step=watch)
        try:
            for piece in self._thread.steps(pieces):
                yield piece
                if self._stopped.is_set():
                    return
        finally:
            pieces.close()

    def _chat_for(self, settings: AnswerSettings) -> Chat:
        if self._chat is None or settings != self._settings:
            self._chat, self._settings = None, settings  # the old caches go before new ones come
            self._chat = self._maker.make(settings)
        return self._chat

    def _messages(self, settings: AnswerSettings) -> list[Message]:
        """What was said before the turn under way."""
        messages: list[Message] = [{"role": "system", "content": settings.system}] if settings.system else []
        for turn in self.turns[:-1]:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def _show_beside(self, drafted: list[Piece], plain: list[Piece], stats: DecodeStats, told: str = "") -> None:
        self.numbers = Numbers(self.numbers.stats, stats)
        self.beside = BesidePlain(drafted, list(plain), self.numbers, told)

    def _told(self, error: Exception) -> str:
        told = self._explain(error)
        if told is None:
            raise error
        return told


def _note(step: Step, rounds: deque[tuple[int, SeenRound]], chat: Chat) -> None:
    """Keep a round in small numbers."""
    assert chat.target.tokenizer is not None, "it read the question"
    if (seen := seen_round(step, chat.target.tokenizer)) is not None:
        rounds.append((chat.stats.rounds, seen))


def _has_plain_text(chat: Chat) -> bool:
    """Whether plain decoding of the same seed gives the very tokens of this chat's answers."""
    made_for = COUPLED if chat.session.drafter is None else chat.session.drafter.verifier
    return chat.options.sampling.greedy or settled(chat.options.verifier, made_for) == COUPLED

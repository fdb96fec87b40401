"""The page over a tiny random model in this process, and the browser that visits it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from eagle.chat import Chat
from eagle.decode import DecodeOptions
from eagle.engine.target import Target
from eagle.listening import free_port
from eagle.web.answer_settings import AnswerSettings
from eagle.web.conversation import Conversation
from eagle.web.decoding_thread import DecodingThread
from eagle.web.visitors import Visitors
from tests import tiny_text
from tests.tiny import tiny_head

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60  # until a test gives up: machines differ, and nothing waits so long where all is well
HOT = AnswerSettings(temperature=1.5, tree="coupled:num_nodes=12,depth=4,top_k=3", max_new_tokens=40)


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class TinyMaker:
    """Chats over one random target; its head knows the whole vocabulary, so that shared noise is often followed."""

    target: Target = field(default_factory=lambda: Target(tiny_text.target(), tiny_text.tokenizer(), name="tiny"))

    def __post_init__(self) -> None:
        self.head = tiny_head(self.target, draft_vocab_size=tiny_text.VOCAB_SIZE)

    def make(self, settings: AnswerSettings, plain: bool = False) -> Chat:
        told: dict[str, Any] = {
            "options": settings.over(DecodeOptions()),
            "system": settings.system or None,
            "seed": settings.seed,
        }
        return Chat(self.target, None if plain else self.head, None if plain else settings.policy, **told)


class HeldThread(DecodingThread):
    """Stops behind a number of pieces until it is told to go on: a test then does what it likes in mid answer."""

    def __init__(self) -> None:
        super().__init__()
        self.hold_behind: int | None = None
        self.go_on = threading.Event()

    def steps(self, items):
        for number, item in enumerate(super().steps(items)):
            if number == self.hold_behind:
                assert self.go_on.wait(PATIENCE_S), "nobody let the answer go on"
            yield item


class Site:
    """A page that is served; conversations as Python sees them."""

    def __init__(self, maker: Any, settings: AnswerSettings = HOT):
        self.thread = HeldThread()
        self.visitors = Visitors(lambda: Conversation(maker, self.thread), most_caches=2)
        self.settings, self.url, self.port = settings, "", free_port("127.0.0.1", 0)

    @property
    def newest(self) -> Conversation:
        return next(reversed(self.visitors._by_session.values()))

    @contextmanager
    def served(self) -> Iterator["Site"]:
        from eagle.web.web_page import build_page, serve

        ready, done = threading.Event(), threading.Event()

        def wait() -> None:
            ready.set()
            done.wait()

        page = build_page(self.visitors, self.settings, "tiny on cpu")
        server = threading.Thread(target=serve, args=(page, "127.0.0.1", self.port, wait), daemon=True)
        server.start()
        assert ready.wait(PATIENCE_S), "the page was not served"
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            done.set()
            server.join(PATIENCE_S)
            self.thread.close()

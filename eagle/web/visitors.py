"""Conversations by browser session, bounded: who has been away longest makes room, caches before texts."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from eagle.web.conversation import Conversation

MOST_CACHES, MOST_VISITORS = 8, 64


class Visitors:
    """Hands every session its conversation; new ones are made by `open_one`."""

    def __init__(
        self,
        open_one: Callable[[], Conversation],
        most_caches: int = MOST_CACHES,
        most_visitors: int = MOST_VISITORS,
    ):
        self._open_one, self._most_caches, self._most_visitors = open_one, most_caches, most_visitors
        self._lock = threading.Lock()
        self._by_session: OrderedDict[str, Conversation] = OrderedDict()  # last seen last

    def __len__(self) -> int:
        return len(self._by_session)

    def of(self, session: str) -> Conversation:
        """The conversation of a session, the last one seen from now on."""
        with self._lock:
            conversation = self._by_session.pop(session, None) or self._open_one()
            self._by_session[session] = conversation
            self._make_room()
        return conversation

    def leave(self, session: str) -> None:
        """The page was closed: its answer ends, its caches and texts go."""
        with self._lock:
            if (conversation := self._by_session.pop(session, None)) is not None:
                conversation.clear()

    def _make_room(self) -> None:
        oldest_first = list(self._by_session.items())
        for session, conversation in oldest_first[: -self._most_visitors]:
            del self._by_session[session]
            conversation.clear()
        for _, conversation in oldest_first[: -self._most_caches]:
            conversation.let_go()

"""Sessions that wait for requests, each with the text that it has read: a conversation's next turn finds its own."""

from collections.abc import Callable, Sequence

from eagle.decode import Session

WORTH = 0.5  # of what a session has kept: a prompt that uses less would cost another conversation its memory


class SessionPool:
    """At most `most` sessions, made when they are needed; an idle one keeps what it has read.

    A prompt gets the idle session of which it can use most, unless most of what that one has kept would be lost and
    another one can be made. Without `reuse` every prompt gets a new one, and is read whole whatever
    came before. For one thread.
    """

    def __init__(self, make: Callable[[], Session], most: int, reuse: bool = True):
        self._make, self._most, self._reuse = make, most, reuse
        self._idle: list[Session] = []  # the one used longest ago comes first
        self.num_out = 0

    def __len__(self) -> int:
        return len(self._idle) + self.num_out

    @property
    def num_tokens(self) -> int:
        """Tokens that idle sessions have read."""
        return sum(session.cache.length for session in self._idle)

    def take(self, prompt_ids: Sequence[int]) -> Session:
        """Raises RuntimeError where all are out: as many requests are decoded as there are sessions."""
        best = max(self._idle, key=lambda session: session.num_usable(prompt_ids), default=None)
        full = len(self) >= self._most
        if best is not None and (full or best.num_usable(prompt_ids) >= WORTH * best.num_kept):
            self._idle.remove(best)
        elif full:
            raise RuntimeError(f"all {self._most} sessions are in use")
        else:
            best = self._make()
        self.num_out += 1
        return best

    def give_back(self, session: Session) -> None:
        self.num_out -= 1
        if self._reuse:
            self._idle.append(session)

    def drop(self) -> None:
        """One that is out does not come back: its state is not to be trusted."""
        self.num_out -= 1

    def clear(self) -> None:
        """Forget all idle ones, and free their memory."""
        self._idle.clear()

"""The thread that owns the models: it decodes a few requests side by side, and lets the others wait."""

import logging
import threading
from collections import deque

from eagle.batching import Batch, Row
from eagle.serving.answering import Answering
from eagle.serving.backend import Backend
from eagle.serving.events import Cancelled, Ended, Event, Failed
from eagle.serving.gauges import Gauges
from eagle.serving.pool import SessionPool
from eagle.serving.refusal import queue_full, shutting_down
from eagle.serving.serve_options import ServeOptions
from eagle.serving.work import Job

log = logging.getLogger("eagle.serving")


class Worker:
    """Takes jobs from any thread, in the order of their arrival."""

    def __init__(self, backend: Backend, options: ServeOptions, gauges: Gauges):
        self._backend, self._options, self._gauges = backend, options, gauges
        block = options.reuse_block or None
        reuse = block is not None and backend.may_split
        self.pool = SessionPool(lambda: backend.new_session(block), options.num_sessions, reuse)
        self._answering = Answering(self.pool, backend.tokenizer, gauges)
        self._waiting: deque[Job] = deque()
        self._batch = Batch[None](shares=not options.take_turns)
        self._active: dict[Row[None], Job] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends what is under way after its round; returns when the thread has ended, or after the time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def num_active(self) -> int:
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do and all sessions are back."""
        with self._changed:
            return not (self._active or self._waiting or self.pool.num_out)

    def submit(self, job: Job) -> None:
        """Raises `Refusal` where the queue is full, and where the thread has ended."""
        with self._changed:
            if not self.is_alive:
                raise shutting_down()
            if self.num_active + self.num_waiting >= self._options.max_active + self._options.max_waiting:
                self._gauges.refused("queue_full")
                raise queue_full(self.num_waiting)
            self._waiting.append(job)
            self._show_numbers()
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """A job that waits is forgotten at once, one under way ends before its next round."""
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, Cancelled())
            self._show_numbers()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting or self._active)
                if self._stopping:
                    break
                self._admit()
            self._advance_all()
        with self._changed:
            for job in self._waiting:
                self._end(job, Cancelled())
            self._waiting.clear()
        for row in list(self._active):
            self._drop(row)
        self.pool.clear()

    def _admit(self) -> None:
        while self._waiting and self.num_active < self._options.max_active:
            job = self._waiting.popleft()
            self._active[self._batch.add(self._answering.rounds(job))] = job
        self._show_numbers()

    def _advance_all(self) -> None:
        """A round of all. A function of its own: a thread that waits holds on to no job by a name in its loop."""
        for row, job in list(self._active.items()):
            if job.cancelled:
                self._drop(row)
        for row in self._batch.advance():
            if row.is_over:
                self._leave(row, Ended(self._active[row].usage) if row.error is None else self._failed(row.error))

    def _drop(self, row: Row[None]) -> None:
        self._batch.remove(row)
        self._leave(row, Cancelled())

    def _failed(self, error: Exception) -> Failed:
        """Whatever goes wrong is the end of one job alone, unless it was in a pass that several shared."""
        if isinstance(error, ValueError):
            log.warning("a request could not be answered: %s", error)
        else:
            log.error("a request failed", exc_info=error)
            self.pool.clear()  # memory may have run out
        return Failed(error)

    def _leave(self, row: Row[None], event: Event) -> None:
        with self._changed:
            job = self._active.pop(row)
            self._show_numbers()
        self._end(job, event)

    def _end(self, job: Job, event: Event) -> None:
        self._gauges.ended(job, event)
        job.deliver(event)

    def _show_numbers(self) -> None:
        limit = self._backend.context_limit * self._options.num_sessions
        self._gauges.show(self.num_active, self.num_waiting, len(self.pool), self.pool.num_tokens / limit)

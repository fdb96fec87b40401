"""From the decoding thread to the loop of the server: the events of one request, until its end or its client's."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

from eagle.serving.events import LAST, Cancelled, Event
from eagle.serving.work import Ask, Job
from eagle.serving.worker import Worker

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Inbox:
    """One job and what is told of it. A client that leaves ends the job, read from or not."""

    def __init__(self, worker: Worker, ask: Ask, receive: Receive):
        """Hands the job in, so it raises `Refusal` where the queue is full. `receive` tells when the client leaves."""
        self._worker, self._loop = worker, asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.job = Job(ask, self._deliver)
        worker.submit(self.job)
        self._watch = asyncio.create_task(self._until_gone(receive))

    async def events(self) -> AsyncGenerator[Event, None]:
        """All of them; the last one is one of `LAST`. Whoever stops early ends the job."""
        try:
            while True:
                event = await self._events.get()
                yield event
                if isinstance(event, LAST):
                    return
        finally:
            self.close()

    def close(self) -> None:
        self._watch.cancel()
        self._worker.cancel(self.job)

    def _deliver(self, event: Event) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the loop has ended, and with it whoever would read
            self.job.cancelled = True

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)
        if isinstance(event, LAST):
            self._watch.cancel()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._worker.cancel(self.job)
        self._events.put_nowait(Cancelled(by_client=True))

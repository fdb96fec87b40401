"""Answers of training conversations by a server that holds the target: many requests at once, a row as each ends.

The rows are those that the batched loop of this project would make: the same prompts as token ids, one turn after the
other, the same limits; the draws are the server's.
"""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue

from eagle.endpoint import Endpoint, Refused, Wanted
from eagle.engine.batched import Answered, AnswerLimits, Job, Lane


class RemoteDecoder:
    """`answer` as of `eagle.engine.batched.BatchedDecoder`, through a server."""

    def __init__(self, endpoint: Endpoint, end_ids: frozenset[int], limits: AnswerLimits, num_at_once: int):
        self.endpoint, self.end_ids, self.limits, self.num_at_once = endpoint, end_ids, limits, num_at_once

    def answer(self, jobs: Iterable[Job]) -> Iterator[Answered]:
        """Yield each job once, in the order in which they end; what the server refused says so.

        Raises OSError when it can no longer be reached. Requests that are under way then, or when the caller stops, are
        left to threads that nobody waits for.
        """
        ended, waiting, num_running = SimpleQueue[Answered | OSError](), iter(jobs), 0
        try:
            while True:
                while num_running < self.num_at_once and (job := next(waiting, None)) is not None:
                    threading.Thread(target=self._work, args=(job, ended), daemon=True).start()
                    num_running += 1
                if not num_running:
                    return
                result = ended.get()
                num_running -= 1
                if isinstance(result, OSError):
                    raise result
                yield result
        finally:
            self.endpoint.close()

    def _work(self, job: Job, ended: "SimpleQueue[Answered | OSError]") -> None:
        try:
            ended.put(self._answer(job))
        except OSError as error:
            ended.put(error)

    def _answer(self, job: Job) -> Answered:
        lane, state = Lane(job), "turn"
        while state == "turn":
            try:
                state = self._turn(lane)
            except Refused as refusal:
                lane.result.refused = str(refusal)
                return lane.result
        return lane.result

    def _turn(self, lane: Lane) -> str:
        """One answer; returns what `Lane.push` says of its last token."""
        ids, job = lane.result.input_ids, lane.result.job
        room = min(self.limits.max_new_tokens, self.limits.max_length - len(ids))
        completion = self.endpoint.complete(ids, Wanted(room, job.temperature, job.seed))
        if completion.prompt_ids != tuple(ids):
            raise Refused(f"{self.endpoint.url} read another prompt than it was sent")
        for token in completion.token_ids[:room]:
            state = lane.push(token, self.end_ids, self.limits)
            if state != "more":
                return state
        raise Refused(f"{self.endpoint.url} ended an answer ({completion.finish}) without an end of turn")

"""Answers of training conversations by the target with a draft head: rows side by side that share their passes.

The law of an answer is the target's own, as of `eagle.engine.batched.BatchedDecoder`: at temperature 0 the same text,
above it other draws. Verdicts are coupled: a text follows from its seed alone, whatever tree the number of rows calls
for. It pays where passes wait for weights and few conversations are at work; where there is memory for many lanes,
those give more, a token a step.
"""

from collections.abc import Callable, Iterable, Iterator

from eagle.batching import Work, side_by_side
from eagle.decode import DecodeOptions, Session, Step, rounds_taken
from eagle.engine.batched import Answered, AnswerLimits, Job, Lane
from eagle.engine.target import Target
from eagle.judging import COUPLED
from eagle.loading import load_head
from eagle.planner import planned_drafters
from eagle.sampling import Sampling, seeded
from eagle.trees.automatic import AutoTree

NewSession = Callable[[], Session]
PACKAGED = "packaged"


def drafted_sessions(target: Target, source: str | None, num_rows: int) -> NewSession | None:
    """Makes sessions, for so many rows, that draft with the head `source`; None without one. Raises as `load_head`."""
    if source is None:
        return None
    head = load_head(None if source == PACKAGED else source, target)
    new_drafter = planned_drafters(target, head, AutoTree(), num_rows)
    return lambda: Session(target, new_drafter())


class DraftedDecoder:
    """`answer` as of `eagle.engine.batched.BatchedDecoder`, by decode sessions."""

    def __init__(self, new_session: NewSession, end_ids: Iterable[int], limits: AnswerLimits, num_rows: int = 8):
        """Raises ValueError where a conversation may be longer than the target's context."""
        self.end_ids, self.limits, self.num_rows = frozenset(end_ids), limits, num_rows
        self._new_session = new_session
        context = new_session().cache.limit
        if limits.max_length > context:
            raise ValueError(f"max_length is {limits.max_length}, the target reads {context} tokens: lower it to that")

    def answer(self, jobs: Iterable[Job]) -> Iterator[Answered]:
        """Yield each job once, answered, in the order in which they end. Raises what decoding raises."""
        works = map(self._work, jobs)  # and no generator: a queue of jobs may go on after it ended
        for _, answered in side_by_side(works, self.num_rows):
            if answered is not None:
                yield answered

    def _work(self, job: Job) -> Work[Answered | None]:
        lane, session, sampling = Lane(job), self._new_session(), Sampling(job.temperature)
        generator, state = seeded(job.seed, session.target.device), "turn"

        def take(step: Step) -> bool:
            nonlocal state
            for token in step.tokens:
                state = lane.push(token, self.end_ids, self.limits)
            return state == "more"

        while state == "turn":
            ids = list(lane.result.input_ids)
            room = min(self.limits.max_new_tokens, self.limits.max_length - len(ids))
            options = DecodeOptions(sampling, room, COUPLED, ignore_end=True, stop_ids=self.end_ids)
            yield from rounds_taken(session.rounds(ids, options, generator), take)
        yield lane.result

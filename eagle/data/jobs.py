"""Between a conversation and its rows: what to ask the target, at which temperature and seed, and what to store."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from eagle.data.conversations import Prompts, TokenRow, end_of_turn, template_runs
from eagle.data.dialogues import Dialogue, DialogueLimits, Part, rewrites_history
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prompts import Conversation
from eagle.engine.batched import Answered, Job
from eagle.seeds import stable_number

Item = TypeVar("Item")
CHARACTERS_PER_TOKEN = 12  # a turn longer than this many for each allowed token is not worth tokenising


class Planner:
    """Conversations to jobs, and answered jobs to rows. Raises ValueError where the template makes no prompt at all."""

    def __init__(
        self,
        config: PrepareConfig,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: frozenset[int],
        skipped: Counter[str],
    ):
        self.config, self.tokenizer, self.end_ids, self.skipped = config, tokenizer, end_ids, skipped
        self._prompts = Prompts(tokenizer, config.system, config.template)
        limit = min(config.max_prompt_tokens, config.max_length - 1)
        self._limits = DialogueLimits(limit, config.max_length)
        self._by_turn = rewrites_history(self._prompts) or config.answers == "original"
        self._dialogues: dict[str, Dialogue] = {}  # those at work
        self._again: deque[Job] = deque()  # their next turns

    def jobs(self, conversations: Iterable[Conversation]) -> Iterator[Job]:
        """Jobs as they are asked for. Later turns, which wait for an answer, go first."""
        return _JobQueue(self._again, self._first_jobs(conversations))

    def rows(self, answers: Iterable[Answered]) -> Iterator[list[TokenRow]]:
        """All rows of a conversation, as soon as its last answer is there."""
        for answered in answers:
            dialogue = self._dialogues[answered.job.id]
            dialogue.take(answered)
            if answered.refused:
                self.skipped[answered.refused] += 1
            elif dialogue.asked is not None:
                self._again.append(self._job(dialogue))
                continue
            del self._dialogues[answered.job.id]
            if dialogue.ended_because:
                self.skipped[f"later turns: {dialogue.ended_because}"] += 1
            if dialogue.parts:
                yield [self._row(dialogue, part) for part in dialogue.parts]

    def original(self, jobs: Iterable[Job]) -> Iterator[Answered]:
        """The jobs with the answers that their conversations came with."""
        end = end_of_turn(self.tokenizer, self.end_ids, self.config.template)
        for job in jobs:
            dialogue = self._dialogues[job.id]
            text = dialogue.conversation.answers[len(dialogue.answers)]
            yield keep_answers(job, [list(self._prompts.ids(text))], end, self.config.max_length)

    def _first_jobs(self, conversations: Iterable[Conversation]) -> Iterator[Job]:
        for conversation in conversations:
            try:
                dialogue = self._dialogue(conversation)
            except ValueError as error:
                self.skipped[str(error)] += 1
                continue
            self._dialogues[conversation.id] = dialogue
            yield self._job(dialogue)

    def _dialogue(self, conversation: Conversation) -> Dialogue:
        turns = conversation.user_turns[: self.config.max_turns]
        if self.config.answers == "original":
            turns = turns[: len(conversation.answers)]
            if not turns:
                raise ValueError("has no answer")
        most = self._limits.max_prompt_tokens * CHARACTERS_PER_TOKEN
        turns = _until(turns, lambda turn: len(turn) > most)
        if not turns:
            raise ValueError(f"the first prompt is longer than {self._limits.max_prompt_tokens} tokens")
        return Dialogue(conversation, turns, self._prompts, self.end_ids, self._limits)

    def _job(self, dialogue: Dialogue) -> Job:
        """All turns at once where the template keeps what was said, else the next one."""
        assert dialogue.asked is not None
        number, conversation = len(dialogue.answers), dialogue.conversation
        runs = [dialogue.asked] if number or self._by_turn else self._runs(dialogue)
        turn = ("turn", number) if number else ()
        seed = stable_number(self.config.seed, conversation.id, *turn)
        return Job(conversation.id, tuple(runs), self._temperature(conversation), seed)

    def _runs(self, dialogue: Dialogue) -> list[tuple[int, ...]]:
        """What stands before every answer, as far as the template takes the turns."""
        runs = template_runs(self.tokenizer, dialogue.turns, self.config.system, self.config.template)
        return _until(runs, lambda run: len(run) > self._limits.max_prompt_tokens)

    def _temperature(self, conversation: Conversation) -> float:
        greedy = stable_number(self.config.seed, conversation.id, "temperature") % 100 < self.config.greedy_share * 100
        return 0.0 if greedy else self.config.temperature

    def _row(self, dialogue: Dialogue, part: Part) -> TokenRow:
        conversation = dialogue.conversation
        messages: list[dict[str, str]] = []
        for turn, answer in zip(dialogue.turns, dialogue.answers[: part.first_turn + len(part.spans)], strict=False):
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
        return TokenRow(
            id=f"{conversation.id}/turn-{part.first_turn + 1}" if part.first_turn else conversation.id,
            source=conversation.source,
            temperature=self._temperature(conversation) if self.config.answers == "regenerate" else None,
            seed=part.seed,
            messages=tuple(messages),
            input_ids=part.ids,
            assistant_spans=tuple(part.spans),
            finish=tuple(part.finish),
            conversation=conversation.id,
            group=conversation.group,
        )


class _JobQueue(Iterator[Job]):
    """Jobs to be done again, then new ones. May go on after it ended, when an answer asks for another."""

    def __init__(self, again: deque[Job], new: Iterator[Job]):
        self._again, self._new = again, new

    def __next__(self) -> Job:
        return self._again.popleft() if self._again else next(self._new)


def keep_answers(job: Job, answers: Iterable[list[int]], end: tuple[int, ...], max_length: int) -> Answered:
    """The job with given answers in place of generated ones; what lies beyond ``max_length`` is cut."""
    result = Answered(job, [])
    for run, answer in zip(job.runs, answers, strict=False):
        repeated = bool(result.spans) and run[:1] == end  # the run opens with the end of turn which the span holds
        start = len(result.input_ids) + len(run) - repeated
        whole = [*result.input_ids, *run[repeated:], *answer, *end]
        if start >= max_length:
            break
        result.input_ids = whole[:max_length]
        result.spans.append((start, len(result.input_ids)))
        result.finish.append("stop" if len(whole) <= max_length else "length")
    return result


def _until(items: list[Item], refused: Callable[[Item], bool]) -> list[Item]:
    """The items before the first that is refused."""
    return items[: next((index for index, item in enumerate(items) if refused(item)), len(items))]

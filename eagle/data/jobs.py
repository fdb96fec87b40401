"""Between a conversation and its row: what to ask the target, at which temperature and seed, and what to store."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from eagle.data.conversations import TokenRow, end_of_turn, template_runs
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prompts import Conversation
from eagle.engine.batched import Answered, Job
from eagle.seeds import stable_number

Item = TypeVar("Item")
CHARACTERS_PER_TOKEN = 12  # a turn longer than this many for each allowed token is not worth tokenising


class Planner:
    """Conversations to jobs, and answered jobs to rows."""

    def __init__(
        self,
        config: PrepareConfig,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: frozenset[int],
        skipped: Counter[str],
    ):
        self.config, self.tokenizer, self.end_ids, self.skipped = config, tokenizer, end_ids, skipped
        self._conversations: dict[str, Conversation] = {}  # those at work

    def jobs(self, conversations: Iterable[Conversation]) -> Iterator[Job]:
        for conversation in conversations:
            try:
                runs = self._runs(conversation)
            except ValueError as error:
                self.skipped[str(error)] += 1
                continue
            self._conversations[conversation.id] = conversation
            yield Job(conversation.id, tuple(runs), self._temperature(conversation), self._seed(conversation))

    def _runs(self, conversation: Conversation) -> list[tuple[int, ...]]:
        limit = min(self.config.max_prompt_tokens, self.config.max_length - 1)
        turns = conversation.user_turns[: self.config.max_turns]
        turns = _until(turns, lambda turn: len(turn) > limit * CHARACTERS_PER_TOKEN)
        runs = template_runs(self.tokenizer, turns, self.config.system)
        if len(runs) < len(turns):
            self.skipped["later turns: the chat template does not keep the history as a prefix"] += 1
        runs = _until(runs, lambda run: len(run) > limit)
        if not runs:
            raise ValueError(f"the first prompt is longer than {limit} tokens")
        return runs

    def _temperature(self, conversation: Conversation) -> float:
        greedy = stable_number(self.config.seed, conversation.id, "temperature") % 100 < self.config.greedy_share * 100
        return 0.0 if greedy else self.config.temperature

    def _seed(self, conversation: Conversation) -> int:
        return stable_number(self.config.seed, conversation.id)

    def original(self, conversations: Iterable[Conversation]) -> Iterator[Answered]:
        """The conversations with the answers that they came with."""
        end = end_of_turn(self.tokenizer, self.end_ids)
        for job in self.jobs(conversations):
            texts = self._conversations[job.id].answers
            answers = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
            answered = keep_answers(job, answers, end, self.config.max_length)
            if answered.spans:
                yield answered
            else:
                self.skipped["has no answer"] += 1

    def row(self, answer: Answered) -> TokenRow:
        conversation = self._conversations.pop(answer.job.id)
        messages: list[dict[str, str]] = []
        for turn, (start, end) in zip(conversation.user_turns, answer.spans, strict=False):
            ids = answer.input_ids[start:end]
            text = str(self.tokenizer.decode(ids[:-1] if ids[-1] in self.end_ids else ids))
            messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": text}]
        return TokenRow(
            id=conversation.id,
            source=conversation.source,
            temperature=answer.job.temperature if self.config.answers == "regenerate" else None,
            seed=answer.job.seed,
            messages=tuple(messages),
            input_ids=tuple(answer.input_ids[: answer.spans[-1][1]]),
            assistant_spans=tuple(answer.spans),
            finish=tuple(answer.finish),
        )


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

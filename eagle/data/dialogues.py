"""A conversation while it is answered: every answer stands behind the prompt that serving sends for it.

A chat template may rewrite what was said, most often by dropping the thoughts of earlier answers. Where the next prompt
goes on from prompt and answer as they stand, the row goes on; where it does not, that prompt begins a row of its own:

    row 0   user: Hi  assistant: <think>A greeting.</think>Hello!<end>
    row 1   user: Hi  assistant: Hello!<end>  user: Bye  assistant: <think>They leave.</think>Bye!<end>
"""

from dataclasses import dataclass, field

from eagle.data.conversations import ANSWER, Prompts
from eagle.data.prompts import Conversation
from eagle.engine.batched import Answered

THOUGHT = "<think>\nthought\n</think>\n\n"  # as most templates that drop thoughts know them


def rewrites_history(prompts: Prompts) -> bool:
    """Whether the next prompt may not go on from an answer as it stands. Raises ValueError where none can be made."""
    answer = THOUGHT + ANSWER
    before = prompts.text(["x"], []) + answer
    try:
        return not prompts.text(["x", "y"], [answer]).startswith(before)
    except ValueError:
        return True


@dataclass
class Part:
    """A row in the making."""

    first_turn: int
    seed: int
    ids: tuple[int, ...] = ()
    spans: list[tuple[int, int]] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DialogueLimits:
    max_prompt_tokens: int  # of what is new before an answer
    max_length: int  # of a row


class Dialogue:
    """What was answered so far, in `parts`, and what stands before the next answer, in `asked`.

    Raises ValueError where the first prompt is too long or refused by the template.
    """

    def __init__(
        self,
        conversation: Conversation,
        turns: list[str],
        prompts: Prompts,
        end_ids: frozenset[int],
        limits: DialogueLimits,
    ):
        self.conversation, self.turns = conversation, turns
        self.parts: list[Part] = []
        self.answers: list[str] = []  # as the history repeats them: without special tokens
        self.ended_because: str | None = None  # the template's refusal of a later turn
        self._prompts, self._end_ids, self._limits = prompts, end_ids, limits
        self._text = prompts.text(turns[:1], [])  # all before the next answer; behind it, all with that answer
        self._goes_on = False  # the next answer belongs to the last part
        self.asked: tuple[int, ...] | None = prompts.ids(self._text)
        if len(self.asked) > limits.max_prompt_tokens:
            raise ValueError(f"the first prompt is longer than {limits.max_prompt_tokens} tokens")

    def take(self, answered: Answered) -> None:
        """Keep the answers that stand behind what serving sends; `asked` is then what to ask next, None at the end."""
        if not answered.spans:
            self.asked = None
        for (start, end), finish in zip(answered.spans, answered.finish, strict=True):
            if tuple(answered.input_ids[:start]) != self.asked:
                break
            self._keep(tuple(answered.input_ids[:end]), start, finish, answered.job.seed)
            self.asked = self._next() if finish == "stop" and len(self.answers) < len(self.turns) else None

    def _keep(self, ids: tuple[int, ...], start: int, finish: str, seed: int) -> None:
        if not self._goes_on:
            self.parts.append(Part(len(self.answers), seed))
        part = self.parts[-1]
        part.ids = ids
        part.spans.append((start, len(ids)))
        part.finish.append(finish)
        answer = list(ids[start:-1] if ids[-1] in self._end_ids else ids[start:])
        decode = self._prompts.tokenizer.decode
        self._text += str(decode(answer))
        self.answers.append(str(decode(answer, skip_special_tokens=True)))

    def _next(self) -> tuple[int, ...] | None:
        """The ids before the next answer; sets whether they go on from the last part."""
        try:
            text = self._prompts.text(self.turns[: len(self.answers) + 1], self.answers)
            asked = self._continued(text)
            self._goes_on = asked is not None
            asked = asked or self._prompts.ids(text)
        except ValueError as error:
            self.ended_because = str(error)
            return None
        self._text = text
        return asked if self._fits(asked) else None

    def _continued(self, text: str) -> tuple[int, ...] | None:
        """The last part and what follows up to the next answer; None where `text` is no continuation of it."""
        spoken, whole = self.parts[-1].ids, self._prompts.ids(text)
        if whole[: len(spoken)] == spoken:
            return whole
        if not text.startswith(self._text):
            return None
        run = self._prompts.ids(text[len(self._text) :])  # the target may have chosen other tokens for the same text
        if spoken[-1] not in self._end_ids:
            return spoken + run
        return spoken + run[1:] if run[:1] == spoken[-1:] else None

    def _fits(self, asked: tuple[int, ...]) -> bool:
        new = (
            asked[len(self.parts[-1].ids) - 1 :] if self._goes_on else self._prompts.ids(self.turns[len(self.answers)])
        )
        return len(new) <= self._limits.max_prompt_tokens and len(asked) < self._limits.max_length

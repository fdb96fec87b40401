"""A conversation: history, chat template, streamed text and stop conditions on top of a decode session."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle.decode import DecodeOptions, Finish, Session, Step
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.lookup import LookupDrafter
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.judging import AUTO, COUPLED
from eagle.model_defaults import model_options
from eagle.pairing import check_pair
from eagle.planner import plan
from eagle.prompting import Message, encode_prompt, fastchat_stops, render_prompt
from eagle.sampling import Sampling, seeded
from eagle.stats import DecodeStats
from eagle.text import Detokenizer, StopStrings, stop_ids
from eagle.trees import AutoTree, TreePolicy
from eagle.trees.automatic import settle
from eagle.trees.undrafted import Undrafted

WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Piece:
    """A bit of streamed text."""

    text: str
    accepted: bool  # its token was drafted by the head and accepted by the target


class Chat:
    """A multi-turn conversation with one target; with a head, answers are drafted and verified.

        chat = Chat(target, load_head(target=target))
        for piece in chat.stream("Why is the sky blue?"):
            print(piece.text, end="", flush=True)

    `stats`, `prompt_ids` and `tokens` are of the last answer. Answers depend on the seed and on how many came before,
    not on timing; under verifier `coupled` not on where earlier ones were stopped either. Raises ValueError for a
    policy whose trees the verifier of `options` cannot decide.

    Without options a model is decoded as its generation_config has it, see `eagle.model_defaults`.
    """

    def __init__(
        self,
        target: Target,
        head: DraftHead | None = None,
        policy: TreePolicy | None = None,
        options: DecodeOptions | None = None,
        system: str | None = None,
        template: str | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        drafter: Drafter | None = None,
        check_length: Callable[[int], None] = lambda num_tokens: None,
        lookup: LookupDrafter | None = None,
    ):
        """
        drafter: in place of a head, a hierarchy say.
        check_length: raises ValueError for a prompt of so many tokens that the drafter has no room for it.
        lookup: beside the head.
        """
        if head is not None and drafter is not None:
            raise ValueError("a head and a drafter are given: name one of them")
        if head is None and lookup is not None:
            raise ValueError("a lookup stands beside a head, and none is given: name one, or pass drafter=lookup")
        self.target, self.options, self.stop = target, options or options_of(target), tuple(stop)
        self._check_length = check_length
        policy = policy or AutoTree()
        if head is not None:
            check_pair(policy, self.options.verifier, self.options.sampling, lookup is not None)
            drafter = EagleDrafter(head, target.embed, plan(policy, target, head, may_be_plain=lookup is None), lookup)
        if template is not None:
            self.stop += fastchat_stops(template)[0]
        if self.stop or template is not None:
            own = stop_ids(self._tokenizer, self.stop) | target.end_ids_with(template)
            self.options = replace(self.options, stop_ids=self.options.stop_ids | own)
        self._policy = policy if head is not None else None
        self._has_lookup, self._fitting = lookup is not None, set[tuple[str, Sampling]]()
        self.template, self._system = template, system
        self.session = Session(target, drafter)
        self.stats = DecodeStats()
        self.finish: Finish | None = None
        self.prompt_ids: list[int] = []
        self.tokens: list[int] = []
        self._generator = seeded(seed, target.device)
        self._turn: object = None  # the one that is being answered
        self.reset()

    @property
    def is_plain(self) -> bool:
        """Whether there is a head that is not used: plain decoding is faster here."""
        drafter, sampling = self.session.drafter, self.options.sampling
        coupled = self.options.verifier in (AUTO, COUPLED)
        return isinstance(drafter, EagleDrafter) and isinstance(settle(drafter.policy, sampling, coupled), Undrafted)

    def reset(self) -> None:
        """Forget the conversation, not the settings."""
        self.messages: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]

    def ask(self, message: str | Sequence[Message], options: DecodeOptions | None = None, **told: Any) -> str:
        """The whole answer at once; arguments as of `stream`."""
        return "".join(piece.text for piece in self.stream(message, options, **told))

    def stream(
        self,
        message: str | Sequence[Message],
        options: DecodeOptions | None = None,
        *,
        continued: bool = False,
        tools: Sequence[Any] | None = None,
        on_step: Callable[[Step], None] = lambda step: None,
        **template_variables: Any,
    ) -> Generator[Piece, None, None]:
        """Stream the answer to `message`. Closing the iterator early keeps what was said so far in the history.

        message: the next one of the user, or a whole conversation, which takes the place of the history.
        options: of this answer alone, with its seed, stop ids and stop strings; None: those of the chat.
        continued: the conversation ends with the beginning of an answer, and the model goes on with it.
        tools: functions or their schemas, for the template.
        on_step: called with every step before its text comes out, for logits and log-probabilities.

        Raises ValueError when the conversation no longer fits into the target's context, where a template refuses it,
        and where the options do not fit the trees; history is then unchanged.
        """
        chosen = self._settled(options)
        messages = self._conversation(message)
        prompt_ids = self._read(messages, continued=continued, tools=tools, **template_variables)
        self.target.new_cache().check_room(len(prompt_ids) + 1)
        self._check_length(len(prompt_ids))
        self.stats, self.finish, said = DecodeStats(), None, [messages.pop()["content"]] if continued else []
        self.prompt_ids, self.tokens = prompt_ids, []
        self._turn = (turn := object())
        try:
            for piece in self._pieces(self.session.decode(prompt_ids, chosen, self._generator), chosen, on_step):
                said.append(piece.text)
                yield piece
        finally:
            if self._turn is turn:  # a later turn has begun otherwise, and the history is its
                self.messages = [*messages, {"role": "assistant", "content": "".join(said)}]

    def _conversation(self, message: str | Sequence[Message]) -> list[Message]:
        if isinstance(message, str):
            return [*self.messages, {"role": "user", "content": message}]
        if not message:
            raise ValueError("the conversation is empty: give at least one message")
        return list(message)

    def _settled(self, options: DecodeOptions | None) -> DecodeOptions:
        """Options of one answer, with the ends of the chat; its stop strings are looked for in the streamed text."""
        if options is None:
            return self.options
        pair = options.verifier, options.sampling.for_drafts
        if self._policy is not None and pair not in self._fitting:
            check_pair(self._policy, *pair, self._has_lookup)
            self._fitting.add(pair)
        return replace(options, stop_ids=options.stop_ids | self.options.stop_ids)

    def warm_up(self) -> None:
        """A short answer that nobody hears: the first passes of a process pay for allocations. Changes no later one."""
        options = replace(self.options, max_new_tokens=min(WARM_UP_TOKENS, self.options.max_new_tokens))
        prompt_ids = self._read([*self.messages, {"role": "user", "content": "Hi"}])
        for _ in self.session.decode(prompt_ids, options, seeded(0, self.target.device)):  # not this chat's numbers
            pass

    def _read(self, messages: Sequence[Message], **told: Any) -> list[int]:
        return encode_prompt(self._tokenizer, render_prompt(self._tokenizer, messages, self.template, **told))

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.target.tokenizer is None:
            raise ValueError("this target was made without a tokenizer: pass one to Target(model, tokenizer)")
        return self.target.tokenizer

    def _pieces(
        self, steps: Iterator[Step], options: DecodeOptions, on_step: Callable[[Step], None]
    ) -> Iterator[Piece]:
        detokenizer, stops = Detokenizer(self._tokenizer), StopStrings((*self.stop, *options.stop))
        for step in self.stats.watch(steps):
            on_step(step)
            for index, token in enumerate(step.tokens):
                self.tokens.append(token)
                if text := stops.push(detokenizer.push(token)):
                    yield Piece(text, accepted=index < step.num_accepted)
                if stops.found:
                    self.finish = "stop"
                    return
            self.finish = step.finish
        if text := stops.push(detokenizer.flush()) + stops.flush():
            yield Piece(text, accepted=False)


def options_of(target: Target) -> DecodeOptions:
    """As the target's model wants to be decoded. Raises ValueError for what is not computed here."""
    return model_options(target.model.generation_config, target.name)

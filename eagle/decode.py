"""The decode loop, as one generator of steps, and the plain loop it must agree with.

    prefill | x0 .. x(n-1) read, first token drawn from the target
    round   | drafter proposes a tree below the newest token -> target scores it in one pass -> verdict
            | emitted: the accepted path and one more token, drawn by the verifier (the bonus token)

Letters: T prompt length, N tree nodes including the root, V vocabulary, Ht target hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eagle.chance import Chance
from eagle.context import Context
from eagle.drafters.protocol import Drafter
from eagle.engine.health import FiniteWatch
from eagle.engine.masks import ancestor_matrix
from eagle.engine.protocol import Engine, TargetOutput, TreeCache
from eagle.judging import AUTO, COUPLED, Judge, check_verifier, judge, settled
from eagle.logprobs import TokenLogprob, logprobs_of
from eagle.sampling import Sampling, check_seed, seeded
from eagle.text import Detokenizer, StopStrings, stop_ids
from eagle.timing import no_clock
from eagle.trees.protocols import lone_root
from hsd_verify import DraftTree
from hsd_verify.transfer import send

Finish = Literal["stop", "length", "context"]
Clock = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class DecodeOptions:
    """What to decode until, and by which laws. Raises ValueError at construction for values outside their range."""

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 512
    verifier: str = AUTO  # a name in eagle.judging.VERIFIERS; auto: the one that the drafter's trees are made for
    ignore_end: bool = False  # go on behind end-of-text tokens, for measurements of a fixed length
    stop_ids: frozenset[int] = frozenset()  # tokens that end an answer beside the target's own
    stop: tuple[str, ...] = ()  # an answer ends with the token that completes one of these in its text
    seed: int | None = None  # of this answer alone, in place of the generator that the call is given
    logprobs: int | None = None  # steps tell log-probabilities, and of so many of the most probable tokens; None: not

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))
        StopStrings(self.stop)  # refuses empty ones
        if self.seed is not None:
            check_seed(self.seed)
        if self.logprobs is not None and (not isinstance(self.logprobs, int) or self.logprobs < 0):
            raise ValueError(f"logprobs is {self.logprobs!r}, it must be a number of tokens, 0 or larger, or None")
        if not isinstance(self.max_new_tokens, int) or isinstance(self.max_new_tokens, bool):
            raise ValueError(f"max_new_tokens is {self.max_new_tokens!r}, it must be a whole number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, it must be at least 1")
        if self.verifier != AUTO:
            check_verifier(self.verifier)


@dataclass(frozen=True)
class Round:
    """What one round saw and decided, for whoever measures."""

    tree: DraftTree
    logits: Tensor  # (N, V), row v = the target's after node v
    judge: Judge  # by which it was decided
    path: tuple[int, ...]  # accepted nodes below the root
    context: Context | None = None  # prompt, answer and root, where laws depend on them

    @cached_property
    def target_probs(self) -> Tensor:
        """(N, V), row v = the target's law after node v; formed when asked for."""
        context, every = self.context, range(self.tree.num_nodes)
        return self.judge.sampling.laws(self.logits, None if context is None else context.after(self.tree, every))

    @property
    def path_logits(self) -> Tensor:
        """(path + 1, V): the target's after the root and after every accepted node."""
        return self.logits[[0, *self.path]]


@dataclass(frozen=True)
class Step:
    """The tokens one round emitted; the prefill's step emits one token and has no round."""

    tokens: tuple[int, ...]
    num_accepted: int  # how many of `tokens`, its first ones, were drafted
    finish: Finish | None = None  # why decoding ends with this step
    round: Round | None = None
    read: Tensor | None = None  # (1, V) the target's logits before the token of a step without a round
    logprobs: tuple[TokenLogprob, ...] = ()  # one a token, where the options ask for them

    @property
    def logits(self) -> Tensor | None:
        """(n, V): what each of the n tokens was decided from, the target's own, before temperature and penalties.

        Of the prefill's step (1, V). None for a step of no tokens, and one that was kept without its tensors. Rows of
        a round are gathered when asked for.
        """
        rows = self.round.path_logits if self.round is not None else self.read
        return None if rows is None else rows[: len(self.tokens)]


class Session:
    """The state of one sequence: the target's cache, the drafter's, and the ids both have read.

    Two sessions can share a target and a head. Asked to continue a prompt that begins like the last one (a chat's
    next turn), it keeps the common prefix and reads only the rest.
    """

    def __init__(self, target: Engine[Any], drafter: Drafter | None = None, block: int | None = None):
        """
        block: prompts are read so many tokens at a time, and of what was read whole blocks of a prompt alone are kept
            for the next one. What is computed for a text is then the same, to the last bit, whatever was read before:
            in bfloat16 a near-tie falls the same way. None: a prompt is read in one go, behind all that it shares.
        """
        if drafter is not None:
            target.check_scores_trees()
        self.target, self.drafter = target, drafter
        self.cache: TreeCache = target.new_cache()
        self._ids: list[int] = []  # ids whose keys are committed
        self._block = block
        self.num_reused = 0  # tokens of the last prompt that were not read again
        self._num_in_blocks = 0  # ids, the first ones, that were read as whole blocks of a prompt
        self._num_prompt = 0  # of the answer under way
        self._answer: object = None  # the one under way: the state is that of its text
        self._watch = FiniteWatch(lambda: target.explain_bad_logits(self._ids))

    def decode(
        self,
        prompt_ids: list[int],
        options: DecodeOptions | None = None,
        generator: torch.Generator | None = None,
        clock: Clock = no_clock,
    ) -> Iterator[Step]:
        """Yield the prefill's step, then one step a round. Same seed, same tokens.

        Without a drafter every round is a tree of one node: one token a target pass. A seed in the options takes the
        place of the generator. Raises ValueError for stop strings of a target without a tokenizer, for an empty
        prompt, for one that does not leave room for a token in the target's context, and where the target's logits are
        not finite. An answer that is asked for its next step after another one of this session began raises
        RuntimeError: the state is no longer its own.
        """
        options, self._answer = options or DecodeOptions(), (answer := object())
        emitter = _Emitter(options, self.target)
        made_for = self.drafter.verifier if self.drafter is not None else COUPLED
        judged = _judge(options, made_for, generator, self.target)
        step = self._prefill(prompt_ids, emitter, judged, clock)
        token = step.tokens[-1]
        yield step
        while step.finish is None:
            if self._answer is not answer:
                raise RuntimeError(
                    "this answer was left for another one of the same session: begin it again, or use two"
                )
            if self.cache.length >= self.cache.limit:
                yield Step((), 0, finish="context")
                return
            read = self._read_again if self.cache.is_stale else self._round
            step = read(token, emitter, judged, clock)
            token = step.tokens[-1]
            if step.finish is not None:
                self._watch.settle()
            yield step

    @torch.inference_mode()
    def _prefill(self, prompt_ids: list[int], emitter: "_Emitter", judged: Judge, clock: Clock) -> Step:
        if not prompt_ids:
            raise ValueError("the prompt is empty: give at least one token")
        start = self.num_reused = self._reuse(prompt_ids)
        self.cache.check_room(len(prompt_ids) - start)
        with clock("prefill"):
            start = self._read_blocks(prompt_ids, start)
            output = self.target.prefill(send(torch.tensor(prompt_ids[start:]), self.target.device), self.cache)
            self._ids, self._num_prompt = list(prompt_ids), len(prompt_ids)
            self._watch.look(output.logits)
            token = judged.token(output.logits[0], len(self._ids), self._context(judged))
            self._tell_drafter([*prompt_ids, token], start, output)
            if self._block is not None:
                self._num_in_blocks = len(prompt_ids) - len(prompt_ids) % self._block
        return emitter.step((token,), num_accepted=0, read=output.logits)

    def _read_blocks(self, prompt_ids: list[int], start: int) -> int:
        """Reads whole blocks from `start` on, all but the last tokens; returns where those begin."""
        while self._block is not None and start + self._block < len(prompt_ids):
            end = start + self._block
            output = self.target.prefill(send(torch.tensor(prompt_ids[start:end]), self.target.device), self.cache)
            self._tell_drafter(prompt_ids[: end + 1], start, output)
            start = end
        return start

    def _tell_drafter(self, known: list[int], start: int, output: TargetOutput) -> None:
        """What was read from `start` on, and the one token behind it."""
        if self.drafter is not None:
            new_from = start + 1 if start else 0  # the token at `start` itself is known to a drafter that goes on
            self.drafter.observe(torch.tensor(known[new_from:]), output.features)

    def _context(self, judged: Judge, *newest: int) -> Context | None:
        """Prompt and answer up to the newest tokens, which the target has still to read; None where no law reads it."""
        if not judged.sampling.reads_text:
            return None
        return Context.of([*self._ids, *newest], self._num_prompt, self.target.device)

    def num_shared(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens a prompt and what was read begin with alike."""
        pairs = enumerate(zip(self._ids, prompt_ids, strict=False))
        return next((place for place, (old, new) in pairs if old != new), min(len(self._ids), len(prompt_ids)))

    @property
    def num_kept(self) -> int:
        """Tokens that a prompt which begins with all of them need not read again."""
        return len(self._ids) if self._block is None else self._num_in_blocks

    def num_usable(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens of a prompt need not be read again.

        The last shared one is read again too: a drafter needs its feature beside the first new token.
        """
        start = min(self.num_shared(prompt_ids) - 1, self.num_kept, self.cache.usable_prefix(len(prompt_ids)))
        if self.drafter is not None:  # it may know less than the target has read, when a round was interrupted
            start = min(start, self.drafter.num_known - 1)
        return max(start if self._block is None else start - start % self._block, 0)

    def _reuse(self, prompt_ids: list[int]) -> int:
        """Forget what the prompt does not share with the last one; returns the first position to read again."""
        start = self.num_usable(prompt_ids)
        if self.drafter is not None:
            self.drafter.truncate(start + 1 if start else 0)
        self.cache.truncate(start)
        self._ids = self._ids[:start]
        self._num_in_blocks = min(self._num_in_blocks, start)
        return start

    @torch.inference_mode()
    def _read_again(self, token: int, emitter: "_Emitter", judged: Judge, clock: Clock) -> Step:
        """One token from a fresh pass over the whole text, where plain decoding makes one; the drafter goes on."""
        with clock("target"):
            self.cache.truncate(0)
            self._num_in_blocks = 0
            self._ids += [token]
            output = self.target.prefill(send(torch.tensor(self._ids), self.target.device), self.cache)
        with clock("verify"):
            self._watch.look(output.logits)
            following = judged.token(output.logits[0], len(self._ids), self._context(judged))
        if self.drafter is not None:
            with clock("draft"):
                self.drafter.observe(torch.tensor([following]), output.features[-1:])
        return emitter.step((following,), num_accepted=0, read=output.logits)

    @torch.inference_mode()
    def _round(self, token: int, emitter: "_Emitter", judged: Judge, clock: Clock) -> Step:
        position = len(self._ids) + 1  # of the token behind the root
        with clock("draft"):
            tree = self._propose(token, emitter.num_left, judged.chance(position))
        with clock("target"):
            output = self.target.forward_tree(tree.tokens, ancestor_matrix(tree.parent_list), self.cache)
        with clock("verify"):
            self._watch.look(output.logits)
            context = self._context(judged, token)
            verdict = judged.verdict(tree, output.logits, position, context)
            path, bonus = verdict.path.tolist(), verdict.next_token
        with clock("rest"):
            kept = send(torch.tensor([0, *path]), tree.tokens.device)
            accepted = [tree.token_list[node] for node in path]
            self.cache.keep(kept)
            self._ids += [token, *accepted]
        if self.drafter is not None:
            with clock("draft"):
                self.drafter.observe(torch.tensor([*accepted, bonus]), output.features[kept])
        seen = Round(tree, output.logits, judged, tuple(path), context)
        return emitter.step((*accepted, bonus), len(path), seen)

    def _propose(self, token: int, num_left: int, chance: Chance) -> DraftTree:
        # the bonus token needs no node, and a node needs a position in the context
        max_depth = min(num_left - 1, self.cache.max_depth)
        if self.drafter is None or max_depth <= 0:
            return lone_root(token, self.target.device)
        return self.drafter.propose(chance, max_depth)


class _Emitter:
    """Cuts what a round produced at the end of text and at the cap, so that no token after the end is emitted."""

    def __init__(self, options: DecodeOptions, target: Engine[Any]):
        self._end_ids = options.stop_ids | (frozenset() if options.ignore_end else target.end_token_ids)
        self._stops = None
        if options.stop:
            self._stops = _StopWatch(tokenizer := _tokenizer(target, options.stop), options.stop)
            self._end_ids |= stop_ids(tokenizer, options.stop)
        self._num_top = options.logprobs
        self.num_left = options.max_new_tokens

    def step(
        self, tokens: tuple[int, ...], num_accepted: int, round_: Round | None = None, read: Tensor | None = None
    ) -> Step:
        finish: Finish | None = None
        tokens = tokens[: self.num_left]
        end = next((i for i, token in enumerate(tokens) if self._ends(token)), None)
        if end is not None:
            tokens, finish = tokens[: end + 1], "stop"
        elif len(tokens) == self.num_left:
            finish = "length"
        self.num_left -= len(tokens)
        step = Step(tokens, min(num_accepted, len(tokens)), finish, round_, read)
        if self._num_top is None or step.logits is None:
            return step
        return replace(step, logprobs=logprobs_of(tokens, step.logits, self._num_top))

    def _ends(self, token: int) -> bool:
        """Asked once for every token of the answer, in order."""
        return token in self._end_ids or (self._stops is not None and self._stops.completes(token))


class _StopWatch:
    """Looks for stop strings in the text of an answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]):
        self._text, self._stops = Detokenizer(tokenizer), StopStrings(stops)

    def completes(self, token: int) -> bool:
        self._stops.push(self._text.push(token))
        return self._stops.found


def _tokenizer(target: Engine[Any], stops: tuple[str, ...]) -> PreTrainedTokenizerBase:
    if target.tokenizer is None:
        raise ValueError(f"stop strings {stops} need a tokenizer, this target has none: Target(model, tokenizer)")
    return target.tokenizer


def _judge(options: DecodeOptions, made_for: str, generator: torch.Generator | None, target: Engine[Any]) -> Judge:
    """The judge of an answer; its own seed takes the place of the generator."""
    generator = generator if options.seed is None else seeded(options.seed, target.device)
    return judge(options.sampling, settled(options.verifier, made_for), generator, target.device)


@torch.inference_mode()
def autoregressive(
    target: Engine[Any],
    prompt_ids: list[int],
    options: DecodeOptions | None = None,
    generator: torch.Generator | None = None,
    clock: Clock = no_clock,
) -> Iterator[Step]:
    """The reference: plain decoding, one token a forward, no tree, no mask. Yields a step a token.

    Of `options.verifier` only matters whether it is `coupled` (or `auto`): tokens are then drawn with the answer's
    noise, and a coupled `Session.decode` with an equal generator gives the same ones, whatever it drafts with.
    """
    options = options or DecodeOptions()
    emitter, judged = _Emitter(options, target), _judge(options, COUPLED, generator, target)
    cache, text, ids = target.new_cache(), list(prompt_ids), list(prompt_ids)
    watch = FiniteWatch(lambda: target.explain_bad_logits(text))
    while True:
        if cache.length >= cache.limit:
            yield Step((), 0, finish="context")
            return
        if cache.is_stale:
            cache.truncate(0)
            ids = text
        with clock("target" if cache.length else "prefill"):
            output = target.prefill(send(torch.tensor(ids), target.device), cache)
        with clock("verify"):
            watch.look(output.logits)
            reads = judged.sampling.reads_text
            context = Context.of(text, len(prompt_ids), target.device) if reads else None
            ids = [judged.token(output.logits[0], len(text), context)]
        text += ids
        step = emitter.step((ids[0],), num_accepted=0, read=output.logits)
        if step.finish is not None:
            watch.settle()
        yield step
        if step.finish is not None:
            return

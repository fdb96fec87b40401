"""The decode loop, as one generator of steps, and the plain loop it must agree with.

    prefill | x0 .. x(n-1) read, first token drawn from the target
    round   | drafter proposes a tree below the newest token -> target scores it in one pass -> verdict
            | emitted: the accepted path and one more token, drawn by the verifier (the bonus token)

Letters: T prompt length, N tree nodes including the root, V vocabulary, Ht target hidden size.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any

import torch

from eagle.chance import Chance
from eagle.context import Context
from eagle.coroutines import Done, Request, Requests, resumed
from eagle.decoded import DecodeOptions, Finish, Round, Step
from eagle.drafters.protocol import Drafter, observing, proposing
from eagle.emitting import Emitter
from eagle.engine.health import FiniteWatch
from eagle.engine.masks import ancestor_matrix
from eagle.engine.protocol import Engine, TargetOutput, TreeCache
from eagle.engine.requests import TextRead, TreeScore
from eagle.judging import COUPLED, Judge, judge, settled
from eagle.sampling import seeded
from eagle.timing import no_clock
from eagle.trees.protocols import lone_root
from hsd_verify import DraftTree
from hsd_verify.transfer import send

__all__ = ["Clock", "DecodeOptions", "Finish", "Round", "Rounds", "Session", "Step", "autoregressive", "rounds_taken"]

Clock = Callable[[str], AbstractContextManager[None]]
Rounds = Generator["Step | Request", Any, None]
"""An answer under way: yields its steps, and between them requests, whose answers it is sent."""


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
        place of the generator. `rounds` is the same for whoever answers the passes of many sessions together.

        Raises ValueError for stop strings of a target without a tokenizer, for an empty
        prompt, for one that does not leave room for a token in the target's context, and where the target's logits are
        not finite. An answer that is asked for its next step after another one of this session began raises
        RuntimeError: the state is no longer its own.
        """
        with closing(self.rounds(prompt_ids, options, generator, clock)) as rounds:
            yield from _steps(rounds)

    def rounds(
        self,
        prompt_ids: list[int],
        options: DecodeOptions | None = None,
        generator: torch.Generator | None = None,
        clock: Clock = no_clock,
    ) -> Rounds:
        """See `decode`. A clock's phases take as long as the answers to their requests do."""
        options, self._answer = options or DecodeOptions(), (answer := object())
        emitter = Emitter(options, self.target)
        made_for = self.drafter.verifier if self.drafter is not None else COUPLED
        judged = _judge(options, made_for, generator, self.target)
        step = yield from self._prefill(prompt_ids, emitter, judged, clock)
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
            step = yield from read(token, emitter, judged, clock)
            token = step.tokens[-1]
            if step.finish is not None:
                self._watch.settle()
            yield step

    @torch.inference_mode()
    def _prefill(self, prompt_ids: list[int], emitter: Emitter, judged: Judge, clock: Clock) -> Requests[Step]:
        if not prompt_ids:
            raise ValueError("the prompt is empty: give at least one token")
        start = self.num_reused = self._reuse(prompt_ids)
        self.cache.check_room(len(prompt_ids) - start)
        with clock("prefill"):
            start = yield from self._read_blocks(prompt_ids, start)
            output: TargetOutput = yield self._read(prompt_ids[start:])
            self._ids, self._num_prompt = list(prompt_ids), len(prompt_ids)
            self._watch.look(output.logits)
            token = judged.token(output.logits[0], len(self._ids), self._context(judged))
            yield from self._tell_drafter([*prompt_ids, token], start, output)
            if self._block is not None:
                self._num_in_blocks = len(prompt_ids) - len(prompt_ids) % self._block
        return emitter.step((token,), num_accepted=0, read=output.logits)

    def _read_blocks(self, prompt_ids: list[int], start: int) -> Requests[int]:
        """Reads whole blocks from `start` on, all but the last tokens; returns where those begin."""
        while self._block is not None and start + self._block < len(prompt_ids):
            end = start + self._block
            output: TargetOutput = yield self._read(prompt_ids[start:end])
            yield from self._tell_drafter(prompt_ids[: end + 1], start, output)
            start = end
        return start

    def _read(self, ids: list[int]) -> TextRead:
        return TextRead(self.target, send(torch.tensor(ids), self.target.device), self.cache)

    def _tell_drafter(self, known: list[int], start: int, output: TargetOutput) -> Requests[None]:
        """What was read from `start` on, and the one token behind it."""
        if self.drafter is not None:
            new_from = start + 1 if start else 0  # the token at `start` itself is known to a drafter that goes on
            yield from observing(self.drafter, torch.tensor(known[new_from:]), output.features)

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
    def _read_again(self, token: int, emitter: Emitter, judged: Judge, clock: Clock) -> Requests[Step]:
        """One token from a fresh pass over the whole text, where plain decoding makes one; the drafter goes on."""
        with clock("target"):
            self.cache.truncate(0)
            self._num_in_blocks = 0
            self._ids += [token]
            output: TargetOutput = yield self._read(self._ids)
        with clock("verify"):
            self._watch.look(output.logits)
            following = judged.token(output.logits[0], len(self._ids), self._context(judged))
        if self.drafter is not None:
            with clock("draft"):
                yield from observing(self.drafter, torch.tensor([following]), output.features[-1:])
        return emitter.step((following,), num_accepted=0, read=output.logits)

    @torch.inference_mode()
    def _round(self, token: int, emitter: Emitter, judged: Judge, clock: Clock) -> Requests[Step]:
        position = len(self._ids) + 1  # of the token behind the root
        with clock("draft"):
            tree = yield from self._propose(token, emitter.num_left, judged.chance(position))
        with clock("target"):
            ancestors = ancestor_matrix(tree.parent_list)
            output: TargetOutput = yield TreeScore(self.target, tree.tokens, ancestors, self.cache)
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
                yield from observing(self.drafter, torch.tensor([*accepted, bonus]), output.features[kept])
        seen = Round(tree, output.logits, judged, tuple(path), context)
        return emitter.step((*accepted, bonus), len(path), seen)

    def _propose(self, token: int, num_left: int, chance: Chance) -> Requests[DraftTree]:
        # the bonus token needs no node, and a node needs a position in the context
        max_depth = min(num_left - 1, self.cache.max_depth)
        if self.drafter is None or max_depth <= 0:
            return lone_root(token, self.target.device)
        return (yield from proposing(self.drafter, chance, max_depth))


def rounds_taken(rounds: Rounds, take: Callable[[Step], bool]) -> Generator[Request | None, Any, None]:
    """An answer under way whose steps go to `take`, until that says that it wants no more (False).

    Yields the requests, whose answers it is sent, and None where a round has ended and another one follows.
    """
    with closing(rounds):
        found = resumed(rounds)
        while not isinstance(found, Done):
            if isinstance(found, Request):
                found = resumed(rounds, (yield found))
            elif take(found):
                found = resumed(rounds, (yield None))
            else:
                return


def _steps(rounds: Rounds) -> Iterator[Step]:
    """The steps of an answer whose requests are answered one by one."""
    found = resumed(rounds)
    while not isinstance(found, Done):
        if isinstance(found, Step):
            yield found
            found = resumed(rounds)
        else:
            found = resumed(rounds, found.alone())


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
    emitter, judged = Emitter(options, target), _judge(options, COUPLED, generator, target)
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

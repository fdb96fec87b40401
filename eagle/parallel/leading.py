"""The target of the process that leads: before every pass it tells the others what is read.

Everything else (drafts, laws, random numbers, measured costs, files, sockets) is on this process alone, so nothing has
to be the same anywhere but the passes themselves.

Letters: N tree nodes including the root, T tokens, B batch, V vocabulary, H hidden size.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.engine.cache import KeyValueCache, StockCache, TargetCache
from eagle.engine.placement import is_divided
from eagle.engine.protocol import TargetOutput
from eagle.engine.rope import RopeSwitch
from eagle.engine.target import Target
from eagle.parallel.orders import Edit, Link, Order
from hsd_verify.transfer import send

ALONE = (
    "the target is divided among processes (tp), and this asks a part of it outside of a pass that all take part in: "
    "decode with a session, or load it without tp"
)
BROKEN = "a pass of the divided target (tp) ended in the middle, and the other processes wait there: start again"
ONLY_HERE = (torch.OutOfMemoryError, dist.DistError)


class LedCache(KeyValueCache):
    """Keeps a list of what became of it, for the caches of the other processes."""

    def __init__(self, num_layers: int, limit: int, switch: RopeSwitch | None):
        super().__init__(num_layers, limit, switch=switch)
        self.edits: list[Edit] = []

    def keep(self, nodes: Tensor) -> None:
        super().keep(nodes)
        self.edits.append(Edit(nodes=nodes))

    def truncate(self, length: int) -> None:
        super().truncate(length)
        self.edits.append(Edit(length=length))


class LeadingTarget(Target):
    """A target whose passes are told to the processes that hold the other parts of it.

    embedding: with its whole weight, for drafts; nobody else is asked.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str,
        link: Link,
        embedding: nn.Module,
    ):
        super().__init__(model, tokenizer, name=name)
        self._link, self._embedding = link, embedding
        self._numbers: WeakKeyDictionary[LedCache, int] = WeakKeyDictionary()
        self._counter, self._forgotten = itertools.count(), list[int]()
        for module in [model, *filter(_holds_a_part, model.modules())]:
            module.register_forward_pre_hook(self._refuse_alone)

    def preallocated(self) -> LedCache:
        cache = LedCache(len(self.layers), self.context_limit, self._switch)
        number = self._numbers[cache] = next(self._counter)
        finalize(cache, self._forgotten.append, number)
        return cache

    def stock(self) -> StockCache:
        raise ValueError("a cache of its own kind, of which the other processes (tp) hear nothing")

    @cached_property
    def why_not_together(self) -> str | None:
        return "its parts lie in several processes (tp), which are told of one sequence at a time"

    def embed(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self._embedding(ids)
        return embeddings

    @torch.inference_mode()
    def read_piece(self, ids: Tensor, cache: TargetCache) -> TargetOutput:
        with self._told("read_piece", cache, ids):
            output = super().read_piece(ids, cache)
        _led(cache).edits.clear()  # the others commit what they read, too
        return output

    @torch.inference_mode()
    def score_unchecked(self, tokens: Tensor, ancestors: Tensor, cache: TargetCache) -> TargetOutput:
        ancestors = send(ancestors, tokens.device)  # once, for all
        with self._told("score_unchecked", cache, tokens, ancestors):
            return super().score_unchecked(tokens, ancestors, cache)

    @torch.inference_mode()
    def read(self, ids: Tensor, attention_mask: Tensor | None = None, logits_to_keep: int | Tensor = 0) -> TargetOutput:
        with self._told("read", None, ids, attention_mask, logits_to_keep):
            return super().read(ids, attention_mask, logits_to_keep)

    @torch.no_grad()
    def read_states(self, ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with self._told("read_states", None, ids, attention_mask):
            return super().read_states(ids, attention_mask)

    def explain_bad_logits(self, ids: list[int]) -> str:
        with self._told("explain_bad_logits", None, torch.tensor(ids)):
            return super().explain_bad_logits(ids)

    @contextmanager
    def _told(self, verb: str, cache: TargetCache | None, *inputs: Tensor | int | None) -> Iterator[None]:
        """A pass that all processes take part in, in the order in which they are told.

        Raises RuntimeError when an earlier one ended in the middle, and the others still wait there.
        """
        with self.turn:
            if self._link.is_broken:
                raise RuntimeError(BROKEN)
            forgotten = tuple(self._forgotten)
            del self._forgotten[: len(forgotten)]
            number, edits = (None, []) if cache is None else (self._numbers[_led(cache)], _led(cache).edits)
            self._link.send(Order(verb, inputs, number, tuple(edits), forgotten))
            edits.clear()
            self._link.in_pass = True
            try:
                yield
            except BaseException as error:  # a model's own mistake happens everywhere, these happen to one process
                self._link.is_broken = isinstance(error, ONLY_HERE) or not isinstance(error, Exception)
                raise
            finally:
                self._link.in_pass = False

    def _refuse_alone(self, *_: object) -> None:
        if not self._link.in_pass:
            raise ValueError(ALONE)


def _holds_a_part(module: nn.Module) -> bool:
    return any(is_divided(weight) for weight in module.parameters(recurse=False))


def _led(cache: TargetCache) -> LedCache:
    assert isinstance(cache, LedCache), f"a {type(cache).__name__} is no cache of a target that leads"
    return cache

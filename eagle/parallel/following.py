"""A process that holds parts of a target and does the passes that the leading one tells it of."""

import signal
from collections.abc import Callable
from typing import Any

import torch

from eagle.engine.cache import KeyValueCache
from eagle.engine.target import Target
from eagle.parallel.orders import Edit, Link, Order


class Follower:
    """Parts of a target, and parts of the caches that the leader reads behind."""

    def __init__(self, target: Target, link: Link):
        self._target, self._link = target, link
        self._caches: dict[int, KeyValueCache] = {}
        self._verbs: dict[str, Callable[..., Any]] = {
            verb: getattr(target, verb) for verb in ("read_piece", "score_unchecked", "read", "read_states")
        } | {"explain_bad_logits": lambda ids: target.explain_bad_logits(ids.tolist())}

    def serve(self) -> None:
        """Until the leader has no orders any more, or is gone. Ctrl-C is for the leader."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while (order := self._next()) is not None:
            self._obey(order)

    def _next(self) -> Order | None:
        try:
            return self._link.receive()
        except RuntimeError:  # the connection: the leader ended without a word, and says why itself
            return None

    def _obey(self, order: Order) -> None:
        for number in order.forgotten:
            self._caches.pop(number, None)
        cache = () if order.cache is None else (self._edited(order.cache, order.edits),)
        try:
            self._verbs[order.verb](*order.inputs, *cache)
        except Exception:  # a foreign model's: the leader has the same one, and tells it or goes on without
            return

    @torch.inference_mode()
    def _edited(self, number: int, edits: tuple[Edit, ...]) -> KeyValueCache:
        """The cache as it is on the leader."""
        cache = self._caches.setdefault(number, self._target.preallocated())
        for edit in edits:
            if edit.nodes is not None:
                cache.keep(edit.nodes)
            elif edit.length is not None:
                cache.truncate(edit.length)
        return cache

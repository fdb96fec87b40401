"""The target: a stock transformers causal LM, unmodified. The only place that knows transformers' models.

Letters: B batch, T tokens, N tree nodes including the root, V vocabulary, H hidden size, L layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.engine import masks
from eagle.engine.cache import KeyValueCache, cache_argument
from eagle.engine.feature_layers import check_feature_layers, default_feature_layers
from eagle.engine.protocol import TargetOutput
from eagle.engine.shape import FULL, SLIDING, attention_shape


class Target:
    """A causal LM with what speculative decoding needs: prefill, a forward over a tree, features and embeddings.

    The model stays as it was: hooks live for one forward, caches belong to the caller.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        feature_layers: tuple[int, int, int] | None = None,
        name: str | None = None,
    ):
        self.model = model.eval()
        self._cache_argument = cache_argument(model)
        self.tokenizer = tokenizer
        self.config = model.config.get_text_config()
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.layers = _decoder_layers(model, self.config.num_hidden_layers)
        self.read_layers(default_feature_layers(len(self.layers)) if feature_layers is None else feature_layers)

    def read_layers(self, layers: tuple[int, int, int]) -> None:
        """Make the inputs of these layers the features from now on: a head decides which ones it reads.

        Raises ValueError for layers that this target does not have, see `check_feature_layers`.
        """
        self.feature_layers = check_feature_layers(layers, len(self.layers))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def context_limit(self) -> int:
        return int(self.config.max_position_embeddings)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Every end-of-text id of the generation configuration (one id, a list, or none)."""
        ids = self.model.generation_config.eos_token_id
        if ids is None:
            ids = self.config.eos_token_id
        return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)

    def new_cache(self) -> KeyValueCache:
        """An empty cache for one sequence."""
        return KeyValueCache(len(self.layers), self.context_limit)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> embeddings (..., H) as the target's first layer would get them."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    @torch.inference_mode()
    def prefill(self, ids: Tensor, cache: KeyValueCache) -> TargetOutput:
        """Read the prompt ids (T,) behind what the cache holds and commit all of them.

        Returns logits (1, V) after the last token and features (T, 3H). Raises ValueError beyond the context limit.
        """
        cache.check_room(ids.numel())
        mask = None  # from an empty cache transformers' own causal mask is right, and lets fast kernels run
        if cache.length:
            mask = self._masks(torch.ones(ids.numel(), ids.numel(), dtype=torch.bool, device=ids.device).tril(), cache)
        positions = torch.arange(cache.length, cache.length + ids.numel(), device=ids.device)
        output = self._forward(ids, positions, mask, cache, logits_to_keep=1)
        cache.keep(torch.arange(ids.numel(), device=ids.device))
        return output

    @torch.inference_mode()
    def forward_tree(self, tokens: Tensor, ancestors: Tensor, cache: KeyValueCache) -> TargetOutput:
        """Score a tree in one pass: tokens (N,), ancestors (N, N) bool as `masks.ancestor_matrix` gives it.

        Appends N entries to the cache and commits none: the caller says which stay with `cache.keep(nodes)`.
        Returns logits (N, V), row v = the target's law after node v, and features (N, 3H).
        """
        self.check_scores_trees()
        cache.check_room(int(masks.depths(ancestors).max()) + 1)
        positions = cache.length + masks.depths(ancestors)
        return self._forward(tokens, positions, self._masks(ancestors, cache), cache)

    @torch.inference_mode()
    def read(self, ids: Tensor, attention_mask: Tensor | None = None, logits_to_keep: int | Tensor = 0) -> TargetOutput:
        """Read whole sequences (B, T) without a cache, as training does.

        logits_to_keep: an int64 tensor of positions, or the number of last ones (0: all).
        Returns logits (B, kept, V) and features (B, T, 3H).
        """
        with self._captured_features() as captured:
            output = self.model(ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=logits_to_keep)
        return TargetOutput(output.logits, torch.cat(captured, dim=-1))

    @torch.no_grad()
    def read_states(self, ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read whole sequences (B, T) without the output layer: features (B, T, 3H) and final states (B, T, H).

        Rows padded on the right need no mask: attention is causal. The results may take part in autograd.
        """
        with self._captured_features() as captured:
            output = self.model.get_decoder()(ids, attention_mask=attention_mask, use_cache=False)
        return torch.cat(captured, dim=-1), output.last_hidden_state

    def check_scores_trees(self) -> None:
        """Raises ValueError where the attention kernel cannot take a tree's mask."""
        implementation = self.config._attn_implementation or ""
        if "flash" in implementation:
            raise ValueError(
                f"attn_implementation '{implementation}' takes no tree mask: load the target with 'sdpa' or 'eager' "
                "for decoding (flash attention serves prefill and training)"
            )

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | dict[str, Tensor] | None,
        cache: KeyValueCache,
        logits_to_keep: int = 0,
    ) -> TargetOutput:
        with self._captured_features() as captured:
            output = self.model(
                ids[None],
                attention_mask=mask,
                position_ids=positions[None],
                use_cache=True,
                logits_to_keep=logits_to_keep,
                **{self._cache_argument: cache.transformers_cache},
            )
        return TargetOutput(output.logits[0], torch.cat(captured, dim=-1)[0])

    def _masks(self, ancestors: Tensor, cache: KeyValueCache) -> Tensor | dict[str, Tensor] | None:
        """The mask, or one for each kind of layer where the model mixes full and sliding-window attention.

        None for a single token: transformers' own mask is right there.
        """
        if len(ancestors) == 1:
            return None
        shape = attention_shape(self.config)
        full = masks.tree_mask(ancestors, cache.length, self.dtype)
        if shape.sliding_window is None:
            return full
        sliding = masks.tree_mask(ancestors, cache.length, self.dtype, window=shape.sliding_window)
        return {FULL: full, SLIDING: sliding} if shape.has_full_layers else sliding

    @contextmanager
    def _captured_features(self) -> Iterator[list[Tensor]]:
        """Collect the inputs of the feature layers, low to high, during one forward."""
        captured: list[Tensor] = []

        def capture(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            captured.append(args[0] if args else kwargs["hidden_states"])

        handles = [self.layers[i].register_forward_pre_hook(capture, with_kwargs=True) for i in self.feature_layers]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()


def _decoder_layers(model: PreTrainedModel, num_layers: int) -> nn.ModuleList:
    """The model's stack of decoder layers, found by its shape and not by the family's name."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    stacks = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if len(stacks) != 1:
        raise ValueError(
            f"{type(model).__name__}: expected one list of {num_layers} decoder layers, found {len(stacks)}: "
            "this architecture needs an entry of its own in eagle/engine/target.py"
        )
    return stacks[0]

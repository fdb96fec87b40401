"""The target: a stock transformers causal LM, unmodified. The only place that knows transformers' models.

Letters: B batch, T tokens, N tree nodes including the root, V vocabulary, H hidden size, L layers.
"""

from functools import cached_property, partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eagle.engine import masks
from eagle.engine.cache import KeyValueCache, StockCache, TargetCache, cache_argument
from eagle.engine.ends import end_token_ids, template_end_ids
from eagle.engine.feature_layers import check_feature_layers, default_feature_layers
from eagle.engine.joint import why_not_together
from eagle.engine.layers import decoder_layers, decoder_of, inputs_of, turn_of
from eagle.engine.placement import home_of
from eagle.engine.protocol import SmallPass, TargetOutput
from eagle.engine.rope import context_limit, forget_growth, rope_switch
from eagle.engine.shape import attention_shape
from eagle.engine.suitability import Suitability, suitability_of
from hsd_verify.transfer import send

PIECE = 1024  # tokens of a pass whose mask is dense: (PIECE, T) and not (T, T)


class Target:
    """A causal LM with what speculative decoding needs: prefill, a forward over a tree, features and embeddings.

    The model stays as it was: hooks live for one forward, caches belong to the caller. Threads may share it: the passes
    of one model take turns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        feature_layers: tuple[int, int, int] | None = None,
        name: str | None = None,
    ):
        self.model = model.eval()
        self.cache_argument = cache_argument(model)
        self.tokenizer = tokenizer
        self.turn = turn_of(model)
        self.config = model.config.get_text_config(decoder=True)
        self._switch = rope_switch(self.config)
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.layers = decoder_layers(model, self.config.num_hidden_layers)
        self.small_pass: SmallPass | None = None  # in place of eager passes over a few nodes, see `eagle.compiled`
        self.read_layers(default_feature_layers(len(self.layers)) if feature_layers is None else feature_layers)

    def read_layers(self, layers: tuple[int, int, int]) -> None:
        """Make the inputs of these layers the features from now on: a head decides which ones it reads.

        Raises ValueError for layers that this target does not have, see `check_feature_layers`.
        """
        self.feature_layers = check_feature_layers(layers, len(self.layers))

    @property
    def read_from(self) -> list[nn.Module]:
        """The layers whose inputs are the features."""
        return [self.layers[i] for i in self.feature_layers]

    @property
    def device(self) -> torch.device:
        return home_of(self.model)

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
        return context_limit(self.config)

    @property
    def has_changing_angles(self) -> bool:
        """Whether rotary angles depend on the length of what is read, see `eagle.engine.rope`."""
        return self._switch is not None

    @property
    def compile_mode(self) -> str:
        """How models that work with this one are to be loaded, as `load_target` names it."""
        if self.small_pass is None:
            return "off"
        return "on" if self.small_pass.is_demanded else "auto"

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Every token that ends an answer; see `eagle.engine.ends`."""
        return end_token_ids(self.model, self.tokenizer)

    def end_ids_with(self, template: str | None) -> frozenset[int]:
        """The same, and those of a FastChat template that stands in for the tokenizer's own."""
        return self.end_token_ids | (frozenset() if template is None else self._template_ends(template))

    def _template_ends(self, template: str) -> frozenset[int]:
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer: template '{template}' cannot be used")
        return template_end_ids(self.tokenizer, template)

    @cached_property
    def suitability(self) -> Suitability:
        """What this model was found to do right when it was tried, on first use."""
        return suitability_of(self, self.preallocated, self.stock)

    @cached_property
    def why_not_together(self) -> str | None:
        """Why trees of several sequences cannot share a pass; None where they can. Tried on first use."""
        return why_not_together(self)

    def new_cache(self) -> TargetCache:
        """An empty cache for one sequence: one that drafts can be dropped from, wherever the model allows it.

        Raises ValueError for a model that is not even read right token by token.
        """
        if self.suitability.plain:
            raise ValueError(f"{self.name} cannot be decoded here: {self.suitability.plain}")
        return self.stock() if self.suitability.trees else self.preallocated()

    def preallocated(self) -> KeyValueCache:
        """An empty cache that drafts can be dropped from, whether the model is right with it or not."""
        return KeyValueCache(len(self.layers), self.context_limit, switch=self._switch)

    def stock(self) -> StockCache:
        """An empty cache of the model's own kind."""
        return StockCache(self.context_limit)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) -> embeddings (..., H) as the target's first layer would get them."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    @torch.inference_mode()
    def prefill(self, ids: Tensor, cache: TargetCache) -> TargetOutput:
        """Read the prompt ids (T,) behind what the cache holds and commit all of them.

        Returns logits (1, V) after the last token and features (T, 3H). Raises ValueError beyond the context limit.
        """
        cache.check_room(ids.numel())
        outputs = [self.read_piece(piece, cache) for piece in torch.split(ids, self._piece(ids.numel(), cache))]
        return TargetOutput(outputs[-1].logits, torch.cat([output.features for output in outputs]))

    def _piece(self, num_tokens: int, cache: TargetCache) -> int:
        """Tokens to read at a time: all of them where no dense mask is needed, or where lengths change the angles."""
        changes = self._switch is not None and cache.length + num_tokens > self._switch.at
        if changes or isinstance(cache, StockCache):
            return max(num_tokens, 1)
        shape = attention_shape(self.config)
        sees_all = shape.sliding_window is None and shape.chunk is None
        has_causal_kernel = sees_all and not cache.length and self.config._attn_implementation != "eager"
        return max(num_tokens, 1) if has_causal_kernel else PIECE

    def read_piece(self, ids: Tensor, cache: TargetCache) -> TargetOutput:
        """One pass of `prefill`: read ids (T,) and commit them."""
        if len(ids) == 1 and self.small_pass is not None:  # plain decoding: the pass that trees get
            output = self.score_unchecked(ids, torch.ones(1, 1, dtype=torch.bool), cache)
            cache.keep(torch.zeros(1, dtype=torch.int64, device=ids.device))
            return output
        mask = None  # from an empty cache transformers' own causal mask is right, and lets fast kernels run
        if cache.length and isinstance(cache, KeyValueCache):
            mask = self._masks(torch.ones(ids.numel(), ids.numel(), dtype=torch.bool, device=ids.device).tril(), cache)
        positions = torch.arange(cache.length, cache.length + ids.numel(), device=ids.device)
        output = self._forward(ids, positions, mask, cache, logits_to_keep=1)
        cache.keep(torch.arange(ids.numel(), device=ids.device))
        return output

    @torch.inference_mode()
    def forward_tree(self, tokens: Tensor, ancestors: Tensor, cache: TargetCache) -> TargetOutput:
        """Score a tree in one pass: tokens (N,), ancestors (N, N) bool as `masks.ancestor_matrix` gives it.

        Ancestors may stay on the host: there the room for them is found out without waiting for an accelerator.

        Appends N entries to the cache and commits none: the caller says which stay with `cache.keep(nodes)`.
        Returns logits (N, V), row v = the target's law after node v, and features (N, 3H).
        """
        if len(tokens) > 1:
            self.check_scores_trees()
        cache.check_room(int(masks.depths(ancestors).max()) + 1)
        return self.score_unchecked(tokens, ancestors, cache)

    @torch.inference_mode()
    def score_unchecked(self, tokens: Tensor, ancestors: Tensor, cache: TargetCache) -> TargetOutput:
        """`forward_tree` without asking whether this target can: how that is found out."""
        ancestors = send(ancestors, tokens.device)
        if self.small_pass is not None and self.small_pass.takes(len(tokens), cache, self.dtype):
            return self.small_pass.score(tokens, ancestors, cache, self.feature_layers)
        positions = cache.length + masks.depths(ancestors)
        return self._forward(tokens, positions, self._masks(ancestors, cache), cache)

    @torch.inference_mode()
    def read(self, ids: Tensor, attention_mask: Tensor | None = None, logits_to_keep: int | Tensor = 0) -> TargetOutput:
        """Read whole sequences (B, T) without a cache, as training does.

        logits_to_keep: an int64 tensor of positions, or the number of last ones (0: all).
        Returns logits (B, kept, V) and features (B, T, 3H).
        """
        with inputs_of(self.read_from, self.turn) as captured:
            output = self.model(ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=logits_to_keep)
        return TargetOutput(output.logits, self.joined(captured))

    @torch.no_grad()
    def read_states(self, ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read whole sequences (B, T) without the output layer: features (B, T, 3H) and final states (B, T, H).

        Rows padded on the right need no mask: attention is causal. The results may take part in autograd.
        """
        with inputs_of(self.read_from, self.turn) as captured:
            output = decoder_of(self.model)(ids, attention_mask=attention_mask, use_cache=False)
        return self.joined(captured), output.last_hidden_state

    def check_scores_trees(self) -> None:
        """Raises ValueError where the kernel takes no tree mask, and where trees were tried and came out wrong."""
        implementation = self.config._attn_implementation or ""
        if "flash" in implementation:
            raise ValueError(
                f"attn_implementation '{implementation}' takes no tree mask: load the target with 'sdpa' or 'eager' "
                "for decoding (flash attention serves prefill and training)"
            )
        if self.suitability.trees:
            raise ValueError(
                f"{self.name} ({self.config.model_type}) cannot score draft trees: {self.suitability.trees}; decode it "
                "without a head (--plain)"
            )

    @torch.inference_mode()
    def explain_bad_logits(self, ids: list[int]) -> str:
        """Read a text once more to find where numbers stop being finite, for the message to the user."""
        states: list[Tensor] = []
        with self.turn:
            hooks = [
                layer.register_forward_hook(
                    lambda _module, _args, out: states.append(out if isinstance(out, Tensor) else out[0])
                )
                for layer in self.layers
            ]
            try:
                self.model(torch.tensor([ids], device=self.device), use_cache=False)
            finally:
                for hook in hooks:
                    hook.remove()
        first = next((number for number, state in enumerate(states) if not bool(state.isfinite().all())), None)
        where = "the output layer" if first is None else f"layer {first} of {len(self.layers)}"
        return (
            f"the logits of {self.name} after {len(ids)} tokens are not finite numbers; the first that are none come "
            f"from {where}: load it in another precision (--dtype bfloat16 or float32), or check its weights"
        )

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | dict[str, Tensor] | None,
        cache: TargetCache,
        logits_to_keep: int = 0,
    ) -> TargetOutput:
        with inputs_of(self.read_from, self.turn) as captured:
            if self._switch is not None and self._switch.keeps_changing:
                forget_growth(self.model)
            own = {self.cache_argument: cache.transformers_cache}
            if isinstance(cache, StockCache):  # it has its own idea of positions and masks
                output = self.model(ids[None], use_cache=True, **own)
                cache.transformers_cache = getattr(output, self.cache_argument)
            else:
                output = self.model(
                    ids[None],
                    attention_mask=mask,
                    position_ids=positions[None],
                    use_cache=True,
                    logits_to_keep=logits_to_keep,
                    **own,
                )
        logits = output.logits[0].to(self.device)
        return TargetOutput(logits[-1:] if logits_to_keep == 1 else logits, self.joined(captured)[0])

    def _masks(self, ancestors: Tensor, cache: TargetCache) -> Tensor | dict[str, Tensor] | None:
        """The mask, or one for each kind of layer where the model mixes full and sliding-window attention.

        None for a single token: transformers' own mask is right there.
        """
        if len(ancestors) == 1:
            return None
        mask = partial(masks.tree_mask, ancestors, cache.length, self.dtype)
        return masks.by_kind(attention_shape(self.config), mask)

    def joined(self, captured: list[Tensor]) -> Tensor:
        """Features side by side, (.., 3H), on the target's device: layers may lie on others."""
        return torch.cat([states.to(self.device) for states in captured], dim=-1)

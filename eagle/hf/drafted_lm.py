"""Model `eagle-hsd` of lm-evaluation-harness: its model `hf`, which drafts and verifies what it generates.

Log-likelihoods are computed by `hf` itself, and so are its own. Rows of a batch that generates share their passes.
"""

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from eagle.hf.accelerated import accelerate
from eagle.hf.exported import DEFAULT
from eagle.judging import AUTO
from eagle.loading import SHIPPED_HEAD, find_model
from eagle.trees import parse_policy


@register_model("eagle-hsd")
class DraftedLM(HFLM):  # type: ignore[misc]
    """`hf` with a head. Raises ValueError as `accelerate`, and for models that are no causal language models."""

    def __init__(
        self,
        pretrained: Any = DEFAULT,
        head: str | None = None,
        tree: str = "auto",
        lookup: bool = False,
        verifier: str = AUTO,
        **told: Any,
    ) -> None:
        """
        pretrained: as of `hf`, or `default`: the embedded model.
        head: directory or Hugging Face id; `default`: the shipped one; None: the same loop without drafts.
        tree, lookup, verifier: as of `eagle-hsd chat`.
        told: everything else that `hf` takes.
        """
        super().__init__(pretrained=find_model(None) if pretrained == DEFAULT else pretrained, **told)
        if self.backend != "causal":
            raise ValueError(f"model eagle-hsd drafts for causal language models, this one is '{self.backend}'")
        made = SHIPPED_HEAD if head == DEFAULT else head
        rows = self.batch_size if isinstance(self.batch_size, int) else 1  # `auto` is found later
        accelerate(self.model, made, self.tokenizer, parse_policy(tree), lookup=lookup, verifier=verifier, rows=rows)

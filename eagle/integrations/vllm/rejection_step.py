"""What stands in vLLM's place of `rejection_sample`: its arguments in, our verdict or its own out, and a record.

Letters: B requests, M drafted tokens of all of them, V vocabulary.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from eagle.integrations.vllm.rejection import PLACEHOLDER, decide, laws_of, output_of, sampled_rows
from eagle.integrations.vllm.settings import HSD, PluginSettings
from eagle.integrations.vllm.tau_record import TauRecord
from hsd_verify.chains import ChainLaws, Chains, tokenwise_stops


class RejectionStep:
    """Called as vLLM's function. Verifier hsd decides by our rule, tokenwise by `original`, which is vLLM's."""

    def __init__(self, settings: PluginSettings, original: Callable[..., Tensor]) -> None:
        self.original, self.decides = original, settings.verifier == HSD
        self.record = TauRecord(settings.tau_directory, settings.verifier) if settings.tau_directory else None
        if self.record is not None:
            atexit.register(self.record.write)

    def __call__(
        self,
        draft_token_ids: Tensor,  # (M,)
        num_draft_tokens: Sequence[int],  # B
        max_spec_len: int,
        cu_num_draft_tokens: Tensor,  # (B,)
        draft_probs: Tensor | None,  # (M, V)
        target_logits: Tensor,  # (M, V)
        bonus_token_ids: Tensor,  # (B, 1)
        sampling_metadata: Any,
        synthetic_mode: bool = False,
        **options: Any,
    ) -> Tensor:
        """Tokens (B, longest draft + 1) int32."""

        def ask_original() -> Tensor:
            drafts = (draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs)
            given = (*drafts, target_logits, bonus_token_ids, sampling_metadata)
            return self.original(*given, synthetic_mode=synthetic_mode, **options)

        if synthetic_mode:  # acceptance by given rates has no law to be right about
            return ask_original()
        if max_spec_len == 0:  # a round in which nobody's draft was left
            return bonus_token_ids.int()
        chains = Chains(draft_token_ids, cu_num_draft_tokens, max_spec_len, draft_probs)
        laws = laws_of(chains, target_logits) if self._needs_laws(sampling_metadata) else None
        if self.decides:
            verdict = decide(chains, laws, target_logits, sampling_metadata, num_draft_tokens)
            output = output_of(chains, *verdict, bonus_token_ids)
        else:
            output = ask_original()
        if laws is not None:
            self._note(laws, output, sampling_metadata)
        return output

    def _needs_laws(self, sampling: Any) -> bool:
        return not sampling.all_greedy and (self.decides or self.record is not None)

    def _note(self, laws: ChainLaws, output: Tensor, sampling: Any) -> None:
        if self.record is None:
            return
        accepted = (output != PLACEHOLDER).sum(1) - 1  # (B,)
        stops = {"tokenwise": tokenwise_stops(laws.chains, laws.target_probs), "hsd": laws.stop}
        self.record.add(sampled_rows(sampling, len(output), output.device), laws.chains.lengths, accepted, stops)

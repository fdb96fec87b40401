"""What the target tells about a batch: features, embeddings, and its laws where a loss is formed.

`OnlineSignals` runs the target beside the head; `eagle.training.feature_store` keeps what it found and reads it again.
Both hand out unshifted tensors: shifting has one home, `eagle.training.steps`.

Letters: B batch, T positions, H target hidden size, P positions with a loss, Vd draft vocabulary.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eagle.data.batches import Batch, Segments
from eagle.engine.target import Target
from eagle.training.target_snapshot import OutputLayer


class LawStates(NamedTuple):
    """The target's laws at P positions, as small as they can be kept."""

    states: Tensor  # (P, H) final states; the output layer turns them into logits
    log_normaliser: Tensor  # (P,) float32, log of the sum of exponentials over the whole vocabulary
    best: Tensor  # (P,) the most probable token

    def law(self, output: OutputLayer, rows: slice) -> Tensor:
        """p on the tokens of a restricted output layer, normalised over the whole vocabulary: (C, Vd)."""
        logits = output(self.states[rows])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sub_(self.log_normaliser[rows, None]).exp_()


class Signals(NamedTuple):
    features: Tensor  # (B, T, 3H)
    embeddings: Tensor  # (B, T, H)
    laws: LawStates  # at the positions asked for
    segments: Segments = None  # of a packed batch


class SignalSource(Protocol):
    def read(self, batch: Batch, at: Tensor) -> Signals:
        """Signals of a batch, with laws at the positions `at` (B, T) bool."""
        ...


class OnlineSignals:
    """The target in the loop, in its own dtype and on its own device."""

    def __init__(self, target: Target, output: OutputLayer):
        self._target, self._output = target, output

    @torch.no_grad()
    def read(self, batch: Batch, at: Tensor) -> Signals:
        features, states = self._read(batch)
        states = states[at]  # (P, H)
        laws = LawStates(states, *self._output.summary(states))
        return Signals(features, self._target.embed(batch.ids), laws, batch.segments)

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features (B, T, 3H) and final states (B, T, H). The segments of a packed batch are read as padded rows."""
        if batch.segments is None:
            return self._target.read_states(batch.ids)
        lengths = list(filter(None, batch.segments))
        conversations = list(torch.split(batch.ids[0], lengths))
        rows = torch.nn.utils.rnn.pad_sequence(conversations, batch_first=True)  # (S, longest)
        held = torch.arange(rows.shape[1], device=rows.device) < torch.tensor(lengths, device=rows.device)[:, None]
        features, states = self._target.read_states(rows)
        return features[held][None], states[held][None]


class OwnEmbeddings:
    """The signals of `source`, with the embeddings of a head that brings its own: weight (V, H), not trained."""

    def __init__(self, source: SignalSource, weight: Tensor):
        self._source, self._weight = source, weight.detach()

    def read(self, batch: Batch, at: Tensor) -> Signals:
        return self._source.read(batch, at)._replace(embeddings=self._weight[batch.ids])

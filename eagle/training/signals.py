"""What the target tells about a batch: features, embeddings, and its laws where a loss is formed.

Under noise it tells a token more: the one that coupled decoding would choose at a position (theory in `eagle.noise`).

    x*    = argmax over V of z_p + T g      z_p the target's logits, g Gumbel numbers that the draft knows too
          = the better of   max over Vd of z_p + T g   and   T log sum over the others of exp(z_p / T) + T g'

The others need no number each: nothing but their best could win, and it is distributed as the second line says.

`OnlineSignals` runs the target beside the head; `eagle.training.feature_store` keeps what it found and reads it again.
Both hand out unshifted tensors: shifting has one home, `eagle.training.steps`.

Letters: B batch, T positions, H target hidden size, P positions with a loss, C of a chunk, V vocabulary, Vd draft
vocabulary. T beside logits is a temperature.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eagle.data.batches import Batch, Segments
from eagle.engine.target import Target
from eagle.seeds import stable_number
from eagle.training.target_snapshot import OutputLayer

COLDEST = 1e-5  # a temperature: at this one T log sum exp(z / T) is the maximum


class LawStates(NamedTuple):
    """The target's laws at P positions, as small as they can be kept."""

    states: Tensor  # (P, H) final states; the output layer turns them into logits
    log_normaliser: Tensor  # (P,) float32, log of the sum of exponentials over the whole vocabulary
    best: Tensor  # (P,) the most probable token

    def law(self, output: OutputLayer, rows: slice) -> Tensor:
        """p on the tokens of a restricted output layer, normalised over the whole vocabulary: (C, Vd)."""
        return self.logits(output, rows).sub_(self.log_normaliser[rows, None]).exp_()

    def logits(self, output: OutputLayer, rows: slice) -> Tensor:
        """Of the tokens of an output layer: (C, its tokens), float32 or better."""
        logits = output(self.states[rows])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Choice(NamedTuple):
    """What the target chooses at C positions under noise, and the noise that the draft knows of."""

    noise: Tensor  # (C, Vd) T g, to be added to the draft's logits
    best: Tensor  # (C,) x* as a draft token; -1 where the draft vocabulary lacks it


class Race(NamedTuple):
    """The target's logits at C positions, and the numbers with which its tokens compete at any temperature."""

    logits: Tensor  # (C, Vd) of the draft tokens
    others: Tensor  # (C, V) of the other tokens, -inf for draft tokens
    gumbel: Tensor  # (C, Vd + 1), the last for the best of the others

    def won(self, temperature: Tensor) -> Choice:
        """At a temperature for every position, (C,)."""
        noise = temperature[:, None] * self.gumbel
        known = (self.logits + noise[:, :-1]).max(-1)
        warm = temperature.clamp_min(COLDEST)
        other = warm * (self.others / warm[:, None]).logsumexp(-1) + noise[:, -1]
        return Choice(noise[:, :-1], known.indices.where(known.values >= other, -1))


@dataclass(frozen=True, eq=False)
class SharedNoise:
    """Noise at P positions of a batch, the same for all draft steps that predict one, as decoding has it.

    A function of `seed` and of where a chunk begins: nothing is drawn in an order, but chunks have to be the same.
    """

    laws: LawStates
    output: OutputLayer  # of all tokens
    draft_ids: Tensor  # (Vd,)
    seed: int

    def race(self, rows: slice) -> Race:
        others = self.laws.logits(self.output, rows)
        logits = others[:, self.draft_ids]
        gumbel = self._gumbel(rows.start, (len(logits), logits.shape[1] + 1), logits)
        return Race(logits, others.index_fill_(1, self.draft_ids, -torch.inf), gumbel)

    def _gumbel(self, first: int, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Drawn in float64: -log of a small exponential number in float32 lies on a grid, and there races are won."""
        generator = torch.Generator(like.device).manual_seed(stable_number(self.seed, "noise", first))
        drawn = torch.empty(shape, dtype=torch.float64, device=like.device).exponential_(generator=generator)
        return drawn.log_().neg_().to(like.dtype)


def random_temperatures(count: int, seed: int, device: torch.device) -> Tensor:
    """One for every conversation of a batch, uniform on [0, 1]: (count,) float32."""
    generator = torch.Generator().manual_seed(stable_number(seed, "temperatures"))
    return torch.rand(count, generator=generator).to(device)


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

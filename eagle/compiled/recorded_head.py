"""Passes of a draft head over a few entries on an accelerator, recorded once for every size and replayed.

See `eagle.compiled.recorded_passes`; here it is the head's own pass, and its logits.

Letters: A entries of a padded pass, T entries before them, C columns that are attended to, H draft hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from eagle.compiled.recorded_passes import MOST_NODES
from eagle.compiled.replays import CudaRecording, Places, Record, Recordings, bucket, columns
from eagle.drafters.head import DraftHead
from eagle.drafters.reader import NewEntries


class RecordedHead:
    """What `HeadReader` reads a few entries with: the head's own pass, but for sums over padding."""

    shares_passes = False

    def __init__(self, head: DraftHead, record: Record = CudaRecording):
        self._head, self._dtype = head, head.fc.weight.dtype
        self._places, self._logits = Places(record), Recordings(record)

    def takes(self, states: Tensor) -> bool:
        """See `SmallRead.takes`."""
        return 0 < len(states) <= MOST_NODES and states.dtype == self._dtype and not torch.is_grad_enabled()

    def read(self, rows: Sequence[NewEntries]) -> list[Tensor]:
        """See `SmallRead.read`; one after the other."""
        return [self._read(row) for row in rows]

    def _read(self, row: NewEntries) -> Tensor:
        cache, num = row.cache, len(row.hidden)
        size = bucket(num, MOST_NODES)
        place = self._places.of([cache], size)
        start, num_columns = cache.length, columns(cache.length + size, place.capacity)

        def work(hidden: Tensor, embedding: Tensor, positions: Tensor, mask: Tensor, entries: Tensor) -> list[Tensor]:
            def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                place.keys[0].index_copy_(2, entries, key)
                place.values[0].index_copy_(2, entries, value)
                keys, values = (buffer[:, :, :num_columns] for buffer in (place.keys[0], place.values[0]))
                return scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=True)

            return [self._head(hidden[None], embedding[None], positions[None], attend)[0]]

        given = [pad(one, (0, 0, 0, size - num)) for one in (row.hidden, row.embedding)]
        mask = _padded_mask(row, size, num_columns, self._dtype)
        entries = start + torch.arange(size, device=row.hidden.device)
        inputs = [*given, pad(row.positions, (0, size - num)), mask, entries]
        (output,) = place.recordings.do((size, num_columns), work, inputs)
        cache.length = start + num
        return output[:num]

    def logits(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """See `SmallRead.logits`."""
        return [self._logits_of(row) for row in rows]

    def _logits_of(self, output: Tensor) -> Tensor:
        size = bucket(len(output), MOST_NODES)
        inputs = [pad(output, (0, 0, 0, size - len(output)))]
        (logits,) = self._logits.do(size, lambda states: [self._head.logits(states).float()], inputs)
        return logits[: len(output)]


def _padded_mask(row: NewEntries, size: int, num_columns: int, dtype: torch.dtype) -> Tensor:
    """(1, 1, A, C): entries that are padding see the first column, and nobody sees theirs."""
    filled, num, unseen = row.cache.length + len(row.hidden), len(row.hidden), torch.finfo(dtype).min
    mask = row.hidden.new_zeros(1, 1, num, filled) if row.mask is None else row.mask
    padded = pad(mask, (0, num_columns - filled, 0, size - num), value=unseen)
    padded[:, :, num:, 0] = 0
    return padded

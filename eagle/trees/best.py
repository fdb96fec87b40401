"""The largest few of many numbers, as `topk` finds them.

Letters: F rows, n numbers of a row, W numbers of a group, M groups, k numbers asked for.
"""

import torch
from torch import Tensor

GROUP = 64  # W
WORTH_GROUPING = 2**16  # numbers of all rows; among fewer `topk` is as fast


def largest(numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row (F, n), in falling order, and where they stand: (F, k) each; all n where n < k.

    On a CPU `topk` takes several times as long as a pass over its numbers. The k largest lie in the k groups with the
    largest maxima, so that it is asked about those alone. Of equal numbers any may be taken, as by `topk`.
    """
    num = numbers.shape[-1]
    if not numbers.is_cpu or numbers.numel() < WORTH_GROUPING or not 0 < k <= num // GROUP:
        found = numbers.topk(min(k, num))
        return found.values, found.indices
    whole = num - num % GROUP
    groups = numbers[:, :whole].reshape(len(numbers), -1, GROUP)  # (F, M, W)
    chosen = groups.amax(-1).topk(k).indices  # (F, k)
    candidates = groups.gather(1, chosen[..., None].expand(-1, -1, GROUP)).flatten(1)  # (F, k * W)
    best = torch.cat([candidates, numbers[:, whole:]], dim=1).topk(k)
    places = best.indices
    within = chosen.gather(1, (places // GROUP).clamp(max=k - 1)) * GROUP + places % GROUP
    return best.values, torch.where(places < k * GROUP, within, places - k * GROUP + whole)

"""How sharp a head's perturbed order is: the one number of coupled trees, by likelihood on held-out contexts.

    context, noise  -> a tree, and the nodes that the target's own tokens pass through
    node, new noise -> the target's token there, and how probable the draft thinks it, by sharpness

The most likely sharpness makes the deepest trees, a draft step a level. Blunter values make shallower ones that accept
almost as much (docs/trees.md): both are measured, and `eagle.planner` takes what pays where it runs. The share of the
plain law stays as it is.

Letters: Vd draft vocabulary, V target vocabulary, S sharpnesses.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from eagle.chance import Noise
from eagle.engine.target import Target
from eagle.judging import ChosenTokens
from eagle.noise import NoiseField
from eagle.sampling import Sampling
from eagle.seeds import stable_number
from eagle.trees import CoupledTree, CoupledValues
from eagle.trees.protocols import grown
from evaluation.trees.contexts import Context
from evaluation.trees.shared import DraftSource, PathScores, SharedProposer, SharedReads, tree_paths

SHARPNESSES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 1.8, 2.1, 2.5)
NUM_NODES, DEPTH = 32, 6  # of the trees whose paths are looked at
NEW_NOISES = 4  # a node: what the target takes there under so many other fields
BLUNTED = 0.7
LEAST = 1e-9  # a probability whose logarithm is finite


class SharpnessSums:
    """Log likelihood of the target's tokens under every sharpness."""

    def __init__(self, plain: float = CoupledValues.plain):
        self.plain, self.num_tokens = plain, 0
        self._logs = torch.zeros(len(SHARPNESSES), dtype=torch.float64)  # (S,)

    def add(self, draft: Tensor, token: int, noise: Tensor, temperature: float) -> None:
        """The target took the draft's `token`; draft logits (Vd,) and Gumbel numbers (Vd,) of its tokens."""
        sharpness = draft.new_tensor(SHARPNESSES)[:, None]
        perturbed = (sharpness * (draft + temperature * noise)).softmax(-1)[:, token]  # (S,)
        probs = (1 - self.plain) * perturbed + self.plain * draft.softmax(-1)[token]
        self._logs += (probs + LEAST).log().double().cpu()
        self.num_tokens += 1

    @property
    def most_likely(self) -> float:
        return SHARPNESSES[int(self._logs.argmax())]

    def fitted(self) -> dict[str, CoupledValues]:
        """The kinds of coupled tree of this head. Raises ValueError where nothing was seen."""
        if not self.num_tokens:
            raise ValueError("no token was seen to fit coupled trees by: record contexts above temperature 0")
        blunt = round(BLUNTED * self.most_likely, 2)
        return {"coupled": CoupledValues(blunt, self.plain), "deep": CoupledValues(self.most_likely, self.plain)}


@torch.inference_mode()
def add_contexts(
    sums: SharpnessSums, target: Target, source: DraftSource, contexts: Iterable[Context], sampling: Sampling
) -> Iterator[Context]:
    """Add what the target takes behind and below every context; yields each context when it is done."""
    for context in contexts:
        cache, position = target.new_cache(), len(context.ids)
        features = target.prefill(torch.tensor(context.ids[:-1], device=target.device), cache).features
        scores = PathScores(target, cache, context.ids[-1])
        judged = ChosenTokens(sampling, _field(target, context, "path"), None)
        with source.open_round(context.ids, features, scores) as proposer:
            reads = SharedReads(proposer)
            tree = grown(CoupledTree(NUM_NODES), SharedProposer(reads), judged.chance(position), DEPTH)
            scores.score([tree])
            logits = scores.logits(tree)  # (N, V)
            path = [0, *judged.verdict(tree, logits, position).path.tolist()]
            draft = reads.logits([tree_paths(tree)[node] for node in path])  # (n, Vd)
        draft_ids = proposer.vocabulary.draft_ids
        for depth, node in enumerate(path):
            for number in range(NEW_NOISES):
                noise = Noise(_field(target, context, number), position)
                token = int(noise.field.best(sampling.scores(logits[node]), position + depth))
                if draft_ids[token] >= 0:
                    own = noise.below(depth, proposer.vocabulary.target_ids)  # (Vd,)
                    sums.add(draft[depth], int(draft_ids[token]), own, sampling.temperature)
        yield context


def _field(target: Target, context: Context, purpose: object) -> NoiseField:
    return NoiseField(stable_number("sharpness", context.id, purpose), target.device)

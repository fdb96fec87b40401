"""Alignment of the training-time test: against drafting, token by token."""

from dataclasses import dataclass

import pytest
import torch

from eagle.chance import Chance
from eagle.data.batches import Example, collate
from eagle.drafters.eagle3 import EagleDrafter
from eagle.sampling import Sampling
from eagle.training.signals import OnlineSignals
from eagle.training.steps import ahead, law_positions, rows_for, unroll
from eagle.training.target_snapshot import TargetFacts
from eagle.trees.protocols import Expansion
from hsd_verify import DraftTree
from tests.tiny import random_ids, tiny_head

STEPS, LENGTH = 4, 14
TOLERANCE = 1e-4  # float32, two orders of summation through one layer


@dataclass
class FollowText:
    """A policy that drafts the tokens it is told and keeps the head's logits on the way."""

    tokens: list[int]
    logits: list[torch.Tensor]

    verifier = "hsd"

    def grow(self, proposer, chance, max_depth):
        self.logits.append(proposer.root_logits)
        for row, token in enumerate(self.tokens):
            self.logits.append((yield Expansion(torch.tensor([token]), torch.tensor([row])))[0])
        return DraftTree(torch.tensor([-1]), torch.tensor([proposer.root_token]))


def drafted(target, head, ids, index):
    """Logits of J draft steps when tokens 0 .. index + 1 are known and the text goes on as it does: (J, Vd)."""
    policy = FollowText(ids[index + 2 : index + 1 + STEPS], [])
    drafter = EagleDrafter(head, target.embed, policy)
    features = target.read(torch.tensor([ids])).features[0]
    drafter.observe(torch.tensor(ids[: index + 2]), features[: index + 1])
    drafter.propose(Chance(Sampling()), STEPS)
    return torch.stack(policy.logits)


@pytest.mark.parametrize("reference", [True, False])
def test_every_step_is_what_drafting_computes(target, reference):
    """Features shifted twice, positions one off, a mask shifted with the tokens: each of them breaks this equality."""
    head, ids = tiny_head(target), random_ids(LENGTH)
    features, _ = target.read_states(torch.tensor([ids]))
    with torch.no_grad():
        outputs = unroll(head, features, target.embed(torch.tensor([ids])), STEPS, reference)
        parallel = torch.stack([head.logits(output[0]) for output in outputs], dim=1)  # (T, J, Vd)
    for index in range(LENGTH - 1 - STEPS):
        torch.testing.assert_close(parallel[index], drafted(target, head, ids, index), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("reference", [True, False])
def test_a_packed_conversation_is_trained_as_if_it_were_alone(target, reference):
    """Trap: packing without segments lets a conversation attend to its neighbour, or predict across the seam."""
    head = tiny_head(target)
    examples = [
        Example(str(n), torch.tensor(random_ids(n), dtype=torch.int32), torch.arange(n) >= 3) for n in (9, 14, 6)
    ]
    batch = collate(examples, range(3), packed=True)
    signals = OnlineSignals(target, TargetFacts.of(target).output_layer).read(batch, law_positions(batch.loss_mask))
    packed = _rows(head, signals.features, signals.embeddings, batch, reference)
    for number, example in enumerate(examples):
        alone = collate([example], [0])
        features, embeddings = target.read_states(alone.ids)[0], target.embed(alone.ids)
        rows, exists = _rows(head, features, embeddings, alone, reference)
        mine = slice(*[sum(int(e.loss_mask.sum()) for e in examples[:n]) for n in (number, number + 1)])
        assert torch.equal(packed[1][mine], exists)
        torch.testing.assert_close(packed[0][mine][exists], rows[exists], rtol=TOLERANCE, atol=TOLERANCE)


def _rows(head, features, embeddings, batch, reference):
    with torch.no_grad():
        outputs = unroll(head, features, embeddings, STEPS, reference, segments=batch.segments)
    return rows_for(outputs, law_positions(batch.loss_mask), batch.segments)


def test_a_packed_conversation_that_opens_with_a_loss_learns_nothing_from_its_neighbour():
    examples = [Example(name, torch.arange(5, dtype=torch.int32), torch.ones(5, dtype=torch.bool)) for name in "ab"]
    at = law_positions(collate(examples, range(2), packed=True).loss_mask)
    assert at[0, :10].tolist() == 2 * [True, True, True, True, False] and not at[0, 10:].any()


def test_rows_belong_to_the_law_of_the_token_they_predict():
    """Step j at index t speaks about the law at t + 1 + j; outputs are numbered so that each says where it stands."""
    outputs = [torch.arange(6.0).reshape(1, 6, 1) + 100 * step for step in range(3)]
    at = torch.zeros(1, 6, dtype=torch.bool)
    at[0, 1], at[0, 4] = True, True
    rows, exists = rows_for(outputs, at)
    assert rows[1, :, 0].tolist() == [3, 102, 201]
    assert exists.tolist() == [[True, False, False], [True, True, True]]
    assert rows[0, 0, 0] == 0


def test_the_loss_mask_moves_with_the_targets():
    """Trap: a mask left unshifted is one position late. It then trains the law of the token after the answer's end,
    which no draft ever needs, and skips the answer's first token.
    """
    mask = torch.tensor([[False, False, True, True, False]])
    assert law_positions(mask).tolist() == [[False, True, True, False, False]]


def test_ahead_reads_later_tokens_and_zero_beyond_the_end():
    x = torch.arange(1.0, 5).reshape(1, 4, 1)
    assert ahead(x, 2).flatten().tolist() == [3, 4, 0, 0]


def test_padding_on_the_right_changes_nothing(target):
    head, ids = tiny_head(target), torch.tensor([random_ids(LENGTH)])
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.int64)], dim=1)
    runs = [unroll(head, target.read_states(x)[0], target.embed(x), 2) for x in (ids, padded)]
    usable = LENGTH - 2  # the last indices of step 1 read tokens that only padding provides
    for short, long in zip(*runs, strict=True):
        torch.testing.assert_close(short[:, :usable], long[:, :usable], rtol=0, atol=TOLERANCE)


def test_gradient_checkpointing_gives_the_same_gradients(target):
    head, ids = tiny_head(target), torch.tensor([random_ids(LENGTH)])
    features, _ = target.read_states(ids)
    gradients = []
    for again in (False, True):
        head.zero_grad()
        outputs = unroll(head, features, target.embed(ids), 3, gradient_checkpointing=again)
        sum(output.square().sum() for output in outputs).backward()  # type: ignore[union-attr]
        gradients.append([parameter.grad.clone() for parameter in head.midlayer.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)

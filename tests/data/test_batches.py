"""Plans of batches, held-out conversations, and data that cannot be used."""

from dataclasses import replace

import pytest
import torch

from eagle.data.batches import (
    apart_from,
    collate,
    data_fingerprint,
    padded_length,
    plan_epoch,
    read_examples,
    split_held_out,
)
from tests.training import runs

LENGTHS = [10 + (i * 37) % 90 for i in range(200)]


def test_packed_batches_are_filled_in_random_order():
    plan = plan_epoch(LENGTHS, 256, seed=1, epoch=0, packed=True)
    assert sorted(index for batch in plan for index in batch) == list(range(len(LENGTHS)))
    assert all(padded_length(sum(LENGTHS[i] for i in batch)) <= 256 for batch in plan)
    padded = plan_epoch(LENGTHS, 256, seed=1, epoch=0)
    assert len(plan) <= len(padded)


def test_a_plan_holds_every_conversation_once_and_no_batch_too_large():
    plan = plan_epoch(LENGTHS, 256, seed=1, epoch=0)
    assert sorted(row for batch in plan for row in batch) == list(range(200))
    assert all(len(batch) * padded_length(max(LENGTHS[row] for row in batch)) <= 256 for batch in plan)


def test_plans_follow_from_seed_and_epoch():
    plans = [plan_epoch(LENGTHS, 256, *key) for key in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert plans[0] == plans[1] and plans[0] != plans[2] != plans[3]


def test_little_is_padding():
    plan = plan_epoch(LENGTHS, 512, seed=0, epoch=0)
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in plan)
    assert sum(LENGTHS) / padded > 0.9


def test_collate_pads_on_the_right_outside_the_mask():
    conversations = [runs.example(0, 7), runs.example(1, 12)]
    batch = collate(conversations, (0, 1))
    assert batch.ids.shape == (2, 32) and batch.names == ("0", "1")
    assert torch.equal(batch.ids[0, :7].int(), conversations[0].ids) and not batch.loss_mask[0, 7:].any()


def test_held_out_conversations_do_not_depend_on_the_order_of_the_file():
    conversations = runs.examples(12)
    train, held_out = split_held_out(conversations, 4)
    again = split_held_out(conversations[::-1], 4)[1]
    assert {e.id for e in held_out} == {e.id for e in again} and len(train) == 8
    with pytest.raises(ValueError, match="num_held_out is 12, there are 12 conversations"):
        split_held_out(conversations, 12)


def test_what_belongs_together_is_held_out_together():
    """Pieces of one conversation, and equal prompts under two ids, stood on both sides: overlap was measured on text
    that the head had been trained on."""
    plain = runs.examples(40)
    pieces = [replace(example, group=f"whole {number // 4}") for number, example in enumerate(plain[:20])]
    twins = [replace(example, id=f"twin of {example.id}", group="") for example in plain[20:30]]
    train, held_out = split_held_out([*pieces, *plain[20:], *twins], 12)
    assert 12 <= len(held_out) <= 15 and len(train) + len(held_out) == 50

    def names(side):
        return {example.group.removeprefix("twin of ") for example in side}

    assert not names(train) & names(held_out)


def test_training_keeps_apart_from_held_out_data_of_another_file():
    plain = runs.examples(12)
    held_out = [replace(plain[0], group="whole"), replace(plain[1], id="other name", group="")]
    training = [replace(plain[2], group="whole"), *plain[1:2], *plain[3:]]
    assert [example.id for example in apart_from(held_out, training)] == [example.id for example in plain[3:]]
    with pytest.raises(ValueError, match="all 1 conversations are pieces or repetitions of 2 held-out ones"):
        apart_from(held_out, training[:1])


def test_a_repeated_id_is_counted_and_its_first_row_kept(tmp_path):
    runs.save_rows(tmp_path / "conversations-a.jsonl", 3)
    runs.save_rows(tmp_path / "conversations-b.jsonl", 4)
    examples, skipped = read_examples(tmp_path, 64, vocab_size=258)
    assert len(examples) == 4 and skipped == {"has the id of an earlier row": 3}


def test_the_fingerprint_sees_tokens_and_masks():
    first, other = runs.example(0, 9), runs.example(0, 9, prompt=4)
    assert data_fingerprint([first]) == data_fingerprint([runs.example(0, 9)]) != data_fingerprint([other])


def test_bad_rows_are_counted_with_their_reason(tmp_path):
    runs.save_rows(tmp_path / "rows.jsonl", 3, vocab_size=50)
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text + '{"id": "x"}\nnonsense\n')
    examples, skipped = read_examples(tmp_path / "rows.jsonl", 64, vocab_size=50)
    assert len(examples) == 3 and sum(skipped.values()) == 2 and "is not JSON" in skipped


def test_data_of_another_target_or_without_answers_is_refused(tmp_path):
    runs.save_rows(tmp_path / "rows.jsonl", 3, vocab_size=200)
    with pytest.raises(ValueError, match=r"no usable conversation.*another target"):
        read_examples(tmp_path / "rows.jsonl", 64, vocab_size=50)
    with pytest.raises(ValueError, match=r"no usable conversation.*no answer within 5 tokens"):
        read_examples(tmp_path / "rows.jsonl", 5, vocab_size=200)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="it is empty"):
        read_examples(tmp_path / "empty.jsonl", 64, vocab_size=200)
    with pytest.raises(FileNotFoundError, match=r"eagle-hsd prepare"):
        read_examples(tmp_path / "nowhere.jsonl", 64, vocab_size=200)

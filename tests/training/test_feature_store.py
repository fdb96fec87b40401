"""Features written once and read again: the same losses, the same weights, and nothing that does not belong."""

import dataclasses
from pathlib import Path

import pytest
import torch

from eagle.data.batches import collate
from eagle.training.feature_store import FeatureStore, StoredSignals, num_laws, store_bytes
from eagle.training.run import load_facts, make_accelerator, make_signals, prepare_store, write_features
from eagle.training.signals import OnlineSignals
from eagle.training.steps import law_positions
from eagle.training.target_snapshot import TargetFacts
from eagle.training.trainer import Material
from tests.tiny import tiny_target
from tests.training import runs


@pytest.fixture
def stored(tmp_path):
    """A store filled with all conversations, and the setting it was filled from."""
    on = runs.setting()
    prepare_store(tmp_path, on.facts, on.examples, lambda text: None)
    online = OnlineSignals(on.target, on.facts.output_layer)
    signals = StoredSignals(FeatureStore(tmp_path), on.facts, {e.id: e for e in on.examples}, online)
    for start in range(0, len(on.examples), 4):
        batch = collate(on.examples, range(start, start + 4))
        signals.read(batch, law_positions(batch.loss_mask))
    return tmp_path, on


def test_stored_signals_equal_the_targets(stored):
    """Trap: features shifted when written and again when read (tau 1.93 became 1.66). Both sources hand out unshifted
    tensors; the batch here mixes conversations of different shards.
    """
    directory, on = stored
    batch = collate(on.examples, (1, 6, 11))
    at = law_positions(batch.loss_mask) & (torch.arange(batch.ids.shape[1]) % 2 == 0)
    online = OnlineSignals(on.target, on.facts.output_layer).read(batch, at)
    again = StoredSignals(FeatureStore(directory), on.facts, {e.id: e for e in on.examples}).read(batch, at)
    there = torch.arange(batch.ids.shape[1]) < torch.tensor([[len(on.examples[i])] for i in (1, 6, 11)])
    torch.testing.assert_close(again.features[there], online.features[there])  # padding differs, nothing reads it
    torch.testing.assert_close(again.embeddings, online.embeddings)
    for found, expected in zip(again.laws, online.laws, strict=True):
        torch.testing.assert_close(found, expected, check_dtype=False)


def test_packed_signals_are_those_of_the_conversations(stored):
    directory, on = stored
    rows = (1, 6, 11)
    batch = collate(on.examples, rows, packed=True)
    at = law_positions(batch.loss_mask)
    store = StoredSignals(FeatureStore(directory), on.facts, {e.id: e for e in on.examples})
    for source in (store, OnlineSignals(on.target, on.facts.output_layer)):
        found, place = source.read(batch, at), 0
        for row in rows:
            alone = collate(on.examples, (row,))
            expected = store.read(alone, law_positions(alone.loss_mask)).features[0, : len(on.examples[row])]
            torch.testing.assert_close(found.features[0, place : place + len(expected)], expected)
            place += len(expected)
        assert len(found.laws.states) == sum(num_laws(on.examples[row]) for row in rows)


@pytest.mark.parametrize("target_at_hand", [True, False])
def test_training_from_the_store_gives_the_same_weights(stored, tmp_path, target_at_hand):
    """float32 features are stored as they are; padded shapes may choose other kernels, hence 1e-6 and not 0."""
    directory, on = stored
    config = runs.config(tmp_path / "online", num_epochs=1)
    expected = runs.trained_head(config, on)
    offline = dataclasses.replace(config, output=str(tmp_path / "offline"), features=str(directory))
    facts = load_facts(offline.features, on.target if target_at_hand else None)
    found = runs.trained_head(offline, Material(None, facts, on.examples, on.held_out))
    for first, second in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_a_cut_conversation_reads_the_beginning_of_what_is_stored(stored):
    directory, on = stored
    cut = [example.first(12) for example in on.examples]
    batch = collate(cut, (0, 5))
    at = law_positions(batch.loss_mask)
    found = StoredSignals(FeatureStore(directory), on.facts, {e.id: e for e in cut}).read(batch, at)
    expected = OnlineSignals(on.target, on.facts.output_layer).read(batch, at)
    torch.testing.assert_close(found.features[:, :12], expected.features[:, :12])
    torch.testing.assert_close(found.laws.log_normaliser, expected.laws.log_normaliser)


def test_an_interrupted_writer_goes_on_where_it_was(stored):
    directory, on = stored
    lines = (directory / "manifest-000.jsonl").read_text().splitlines(keepends=True)
    (directory / "manifest-000.jsonl").write_text("".join(lines[:2]) + lines[2][:20])  # killed while listing the third
    assert len(FeatureStore(directory)) == 8
    said: list[str] = []
    prepare_store(directory, on.facts, on.examples, said.append)
    assert said[0].startswith("features of 8 conversations will take")


def test_a_shard_listed_after_a_kill_stands_on_a_line_of_its_own(stored):
    """It used to continue the line that the kill had cut, and both shards were lost to every later reader."""
    directory, on = stored
    path = directory / "manifest-000.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]) + '{"file": "sh')
    store, (example, *_) = FeatureStore(directory), [e for e in on.examples if e.id not in FeatureStore(directory)]
    batch = collate([example], (0,))
    store.write([example], OnlineSignals(on.target, on.facts.output_layer).read(batch, law_positions(batch.loss_mask)))
    assert example.id in FeatureStore(directory) and len(FeatureStore(directory)) == 9


def damage(directory, how: str) -> None:
    shard, manifest = directory / "shard-000-000001.safetensors", directory / "manifest-000.jsonl"
    if how == "missing":
        shard.unlink()
    elif how == "line":
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join([lines[0], lines[1][:30] + "\n", '{"file": 3, "conversations": 7}\n', *lines[2:]]))
    else:
        shard.write_bytes(shard.read_bytes()[: {"empty": 0, "header": 5, "cut": -20}[how]])


@pytest.mark.parametrize("how", ["missing", "empty", "header", "cut", "line"])
def test_a_damaged_shard_is_made_again(stored, how):
    """It ended in a traceback without its name, or, where one was missing, the next one overwrote the newest."""
    directory, on = stored
    damage(directory, how)
    store = FeatureStore(directory)
    assert len(store) == 12
    lost = [e.id for e in on.examples if e.id not in store]
    with pytest.raises(ValueError, match="4 conversations have no stored features" if how != "line" else "no stored"):
        batch = collate(on.examples, range(16))
        StoredSignals(store, on.facts, {e.id: e for e in on.examples}).read(batch, law_positions(batch.loss_mask))
    online = OnlineSignals(on.target, on.facts.output_layer)
    batch = collate(on.examples, [int(name) for name in lost])
    filling = StoredSignals(store, on.facts, {e.id: e for e in on.examples}, online)
    found, expected = (source.read(batch, law_positions(batch.loss_mask)) for source in (filling, online))
    torch.testing.assert_close(found.laws.log_normaliser, expected.laws.log_normaliser)
    assert len(FeatureStore(directory)) == 16 and len(FeatureStore(directory).examples()) == 16


def test_training_without_a_target_names_the_damaged_shard(stored):
    directory, _ = stored
    damage(directory, "cut")
    with pytest.raises(ValueError, match=r"shard-000-000001\.safetensors is damaged\): write them again with"):
        FeatureStore(directory).examples()


def test_the_store_knows_which_conversations_belong_together(tmp_path):
    on = runs.setting()
    pieces = [dataclasses.replace(example, group=f"group {number // 2}") for number, example in enumerate(on.examples)]
    prepare_store(tmp_path, on.facts, pieces, lambda text: None)
    batch = collate(pieces, range(16))
    online = OnlineSignals(on.target, on.facts.output_layer)
    FeatureStore(tmp_path).write(pieces, online.read(batch, law_positions(batch.loss_mask)))
    assert {e.id: e.group for e in FeatureStore(tmp_path).examples()} == {e.id: e.group for e in pieces}


def test_the_announced_size_is_the_size_on_disk(tmp_path):
    on = runs.setting([runs.example(name, 60) for name in range(16)])
    announced = store_bytes(on.examples, on.facts)
    prepare_store(tmp_path, on.facts, on.examples, lambda text: None)
    batch = collate(on.examples, range(16))
    online = OnlineSignals(on.target, on.facts.output_layer)
    FeatureStore(tmp_path).write(on.examples, online.read(batch, law_positions(batch.loss_mask)))
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert announced == pytest.approx(written, rel=0.02)  # file headers are not counted


def test_features_of_other_data_or_another_target_are_refused(stored):
    directory, on = stored
    other = [dataclasses.replace(example, ids=example.ids + 1) for example in on.examples]
    signals = StoredSignals(FeatureStore(directory), on.facts, {e.id: e for e in other})
    batch = collate(other, (0,))
    with pytest.raises(ValueError, match="other or fewer tokens for conversation 0"):
        signals.read(batch, law_positions(batch.loss_mask))
    config = runs.config(Path("unused"), features=str(directory), fill_features=True)
    with pytest.raises(ValueError, match="use another directory"):
        load_facts(config.features, tiny_target(vocab_size=120))


def test_missing_features_are_an_error_unless_they_may_be_filled(stored):
    directory, on = stored
    more = runs.examples(20)
    signals = StoredSignals(FeatureStore(directory), on.facts, {e.id: e for e in more})
    batch = collate(more, (17, 3))
    with pytest.raises(ValueError, match=r"1 conversations have no stored features, as 17.*eagle-hsd features"):
        signals.read(batch, law_positions(batch.loss_mask))


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    on = runs.setting()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match=r"left, .* are needed: choose another disk"):
        prepare_store(tmp_path, on.facts, on.examples, lambda text: None)


def test_facts_survive_a_round_trip(tmp_path):
    facts = TargetFacts.of(tiny_target())
    facts.save(tmp_path)
    found = TargetFacts.load(tmp_path)
    assert found.sizes == facts.sizes
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in facts.tensors.items())


def test_an_unusual_output_layer_is_refused():
    """A family that scales its logits (cohere, granite) would train against wrong laws without a word."""
    target = tiny_target()
    target.model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: logits * 3)
    with pytest.raises(ValueError, match=r"changes its logits after the output layer.*OutputLayer"):
        TargetFacts.of(target)


def test_write_features_stores_every_conversation(tmp_path):
    runs.save_target(tmp_path / "target")
    runs.save_rows(tmp_path / "rows.jsonl", 12)
    config = runs.config(
        tmp_path / "run",
        target=str(tmp_path / "target"),
        data=str(tmp_path / "rows.jsonl"),
        features=str(tmp_path / "features"),
        fill_features=True,
        num_held_out=2,
    )
    write_features(config)
    assert len(FeatureStore(tmp_path / "features")) == 12
    alone = dataclasses.replace(config, data=None, fill_features=False, output=str(tmp_path / "alone"))
    material = Material(None, load_facts(alone.features, None), [], [])
    assert make_signals(alone.features, material, make_accelerator(alone.precision))

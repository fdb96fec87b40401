"""Runs of a few steps: resuming, averaging, overfitting, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from eagle.checkpoints.flat import open_head
from eagle.data.batches import collate
from eagle.data.token_counts import TokenCounts, provenance_of, save_vocabulary
from eagle.training.conditioning import unconditioned
from eagle.training.initialise import draft_vocabulary, make_head, new_head
from eagle.training.log import METRICS, read_metrics
from eagle.training.optimizers import learning_rate, make_optimizers
from eagle.training.plots import plot_run
from eagle.training.resume import check_same_run
from eagle.training.run import frozen, make_accelerator, run_identity
from eagle.training.steps import choose_positions
from eagle.training.trainer import plan_steps
from eagle.vocab import DraftVocabulary
from eagle.whole import list_files
from tests.tiny import VOCAB_SIZE
from tests.training import runs


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny products lose more by waiting for a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_interrupted_run_ends_in_the_same_bits(tmp_path):
    """Trap: a resume that loses the optimizer (or the place in the data, or the schedule) trains on and looks fine.

    Here the run stops after 3 of its steps, a new process's worth of objects goes on, and every weight is equal.
    """
    on = runs.setting()
    whole = runs.trained_head(runs.config(tmp_path / "whole"), on)
    parts = runs.config(tmp_path / "parts")
    runs.trained_head(parts, on, stop_after=3)
    resumed = runs.trained_head(parts, on)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    steps = [
        [record["step"] for record in read_metrics(tmp_path / name / METRICS, "train")] for name in ("whole", "parts")
    ]
    assert steps[0] == steps[1] == list(range(1, len(steps[0]) + 1))


def test_a_state_of_an_earlier_version_is_read(tmp_path):
    """Accelerate wrote them, with optimizers by number and one file of random states a process."""
    on, config = runs.setting(), runs.config(tmp_path / "run")
    whole = runs.trained_head(runs.config(tmp_path / "whole"), on)
    begun = runs.trainer(config, on)
    begun.run(stop_after=4)
    state = max((tmp_path / "run" / "states").glob("step-*"))
    for name in ("model.safetensors", "optimizer.bin"):
        (state / name).unlink()
    begun.accelerator.save_state(str(state))
    list_files(state)
    resumed = runs.trained_head(config, on)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_muon_moves_the_matrices_between_hidden_states_and_resumes(tmp_path):
    """Every weight has exactly one optimizer, and the state of both survives an interruption."""
    on, changes = runs.setting(), {"optimizer": "muon", "num_epochs": 1}
    whole = runs.trained_head(runs.config(tmp_path / "whole", **changes), on)
    parts = runs.config(tmp_path / "parts", **changes)
    runs.trained_head(parts, on, stop_after=1)
    resumed = runs.trained_head(parts, on)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_muon_and_adamw_share_a_head_between_them(tmp_path):
    head = runs.trained_head(runs.config(tmp_path, num_epochs=1), runs.setting())
    adamw, muon = make_optimizers(head, runs.config(tmp_path, optimizer="muon").optimization)
    names = {id(parameter): name for name, parameter in head.named_parameters()}
    kinds = [{names[id(p)] for group in each.param_groups for p in group["params"]} for each in (adamw, muon)]
    assert not kinds[0] & kinds[1] and kinds[0] | kinds[1] == set(names.values())
    assert "lm_head.weight" in kinds[0] and "norm.weight" in kinds[0]
    assert kinds[1] == {name for name in names.values() if "_proj" in name or name.startswith("fc.")}


def test_muon_is_refused_where_matrices_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="optimizer 'muon' needs whole matrices, and FSDP divides them"):
        runs.trainer(runs.config(tmp_path, optimizer="muon"), runs.setting())


def test_muon_is_refused_by_name_where_torch_has_none(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"optimizer 'muon' came with torch 2\.9, this is .*: use 'adamw'"):
        runs.trainer(runs.config(tmp_path, optimizer="muon"), runs.setting())


def test_random_choices_are_resumed_too(tmp_path):
    on = runs.setting()
    changes = {"loss_fraction": 0.5, "feature_noise": 0.1, "num_epochs": 1}
    whole = runs.trained_head(runs.config(tmp_path / "whole", **changes), on)
    parts = runs.config(tmp_path / "parts", **changes)
    runs.trained_head(parts, on, stop_after=1)
    assert torch.equal(whole.fc.weight, runs.trained_head(parts, on).fc.weight)


def test_a_run_leaves_heads_states_metrics_and_plots(tmp_path):
    config, on = runs.config(tmp_path, keep_states=2), runs.setting()
    runs.trained_head(config, on)
    plot_run(tmp_path)
    states = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert len(states) == 2 and states[-1] == f"step-{json.loads(_progress(tmp_path))['step']:08d}"
    assert {path.name for path in tmp_path.glob("*.png")} == {"overlap.png", "tau.png", "loss.png"}
    assert list((tmp_path / "tensorboard").iterdir())
    for name in ("best", "last"):
        head = open_head(tmp_path / name, on.target)
        assert head.config.draft_vocab_size == config.draft_vocab_size


def test_best_is_the_head_of_the_best_evaluation(tmp_path):
    runs.trained_head(runs.config(tmp_path), runs.setting())
    overlaps = {r["step"]: sum(r["overlap"]) / len(r["overlap"]) for r in read_metrics(tmp_path / METRICS, "eval")}
    progress = json.loads(_progress(tmp_path))
    assert progress["best_step"] == max(overlaps, key=overlaps.get)


def _progress(output):
    return max((output / "states").glob("step-*")).joinpath("progress.json").read_text()


def test_dividing_a_step_into_batches_changes_nothing_but_rounding(tmp_path):
    """Trap: averages of averages. The same conversations as one batch or two, short beside long, padded or not, give
    the same gradient: float32 sums in another order, so equal to 1e-5. (Conditioning is off: its scale is measured on
    the first batch, which differs.)
    """
    same = {"condition_features": False, "batches_per_step": 20, "num_epochs": 1}
    on = runs.setting(runs.examples(4) + [runs.example(99, 60)])
    heads = [
        runs.trained_head(runs.config(tmp_path / str(size), tokens_per_batch=size, **same), on) for size in (64, 512)
    ]
    for first, second in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=2e-5)


def test_packing_changes_nothing_but_rounding(tmp_path):
    """The same conversations padded or packed give the same gradient; tolerance as above."""
    same = {"condition_features": False, "batches_per_step": 20, "num_epochs": 1}
    on = runs.setting(runs.examples(4) + [runs.example(99, 60)])
    heads = [runs.trained_head(runs.config(tmp_path / str(p), packing=p, **same), on) for p in (False, True)]
    for first, second in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=2e-5)


def test_four_conversations_can_be_learnt_by_heart(tmp_path):
    """Accuracy above 0.95 at all steps. Text is random, so nothing but the right features and tokens tells the
    target's best token: a step that never learns (a wrong shift, a mask, a lost gradient) stays far below.
    """
    conversations = [runs.example(name, 24) for name in range(4)]
    rarely = {"log_every": 1000, "evaluate_every": 1000, "save_every": 1000}
    config = runs.config(
        tmp_path, num_epochs=500, learning_rate=1e-2, batches_per_step=1, intermediate_size=256, **rarely
    )
    on = runs.setting(conversations, held_out=conversations)
    head = new_head(config.initialisation, on.facts, DraftVocabulary.first(VOCAB_SIZE, VOCAB_SIZE))
    result = runs.trainer(config, on, head).run()
    assert min(result.top1_agreement) > 0.95
    assert min(result.overlap) > 0.95
    assert result.tau_chain > 0.9 * config.num_steps


def test_fewer_distinct_tokens_than_the_draft_vocabulary_are_refused(tmp_path):
    """Trap: public code fills the rest with tokens it never saw, or dies in an index error hours later."""
    with pytest.raises(ValueError, match="distinct tokens"):
        make_head(runs.config(tmp_path, draft_vocab_size=97).initialisation, *_head_inputs([runs.example(0, 12)]))


def test_a_vocabulary_is_not_taken_from_elsewhere(tmp_path):
    """Trap: a vocabulary map cached in the working directory and keyed by nothing. Ours follows from the data: other
    conversations, other map, and nothing is read from where the program happens to run.
    """
    config = runs.config(tmp_path, draft_vocab_size=20)
    maps = [draft_vocabulary(config.initialisation, *_vocabulary_inputs(seed)).target_ids for seed in (0, 50)]
    assert not torch.equal(*maps)


def _vocabulary_inputs(seed):
    on = runs.setting([runs.example(seed + i, 40) for i in range(3)])
    return on.facts, on.examples


def _head_inputs(conversations):
    on = runs.setting(conversations)
    return on.facts, on.target, on.examples


def test_a_run_started_with_something_else_is_not_resumed(tmp_path):
    config, on = runs.config(tmp_path), runs.setting()
    check_same_run(tmp_path, run_identity(config, on))
    check_same_run(tmp_path, run_identity(dataclasses.replace(config, save_every=9), on))
    with pytest.raises(ValueError, match=r"learning_rate was 0.0005, is 0.1\): give another output"):
        check_same_run(tmp_path, run_identity(dataclasses.replace(config, learning_rate=0.1), on))
    with pytest.raises(ValueError, match="data_sha256"):
        check_same_run(tmp_path, run_identity(config, runs.setting(runs.examples(9))))


def test_data_may_grow_but_not_shrink_while_a_run_is_resumed(tmp_path):
    accelerator = make_accelerator("no")
    few, more = runs.examples(5), runs.examples(8)
    assert frozen(tmp_path / "ids.json", few, accelerator) == few
    assert [e.id for e in frozen(tmp_path / "ids.json", more, accelerator)] == [e.id for e in few]
    with pytest.raises(ValueError, match="1 conversations this run started with are gone"):
        frozen(tmp_path / "ids.json", few[1:], accelerator)


def test_a_second_stage_starts_from_the_first_ones_head(tmp_path):
    on = runs.setting()
    first = runs.config(tmp_path / "first", num_epochs=1)
    runs.trained_head(first, on)
    second = dataclasses.replace(first, initial_head=str(tmp_path / "first" / "last"))
    head = make_head(second.initialisation, on.facts, on.target, on.examples)
    stored = open_head(tmp_path / "first" / "last", on.target, torch.float32)
    assert torch.equal(head.fc.weight, stored.fc.weight) and torch.equal(head.d2t, stored.d2t)


def test_a_second_stage_may_draft_other_tokens(tmp_path):
    """Tokens both vocabularies hold keep what was learnt; new ones start from the target's own output rows."""
    on = runs.setting()
    first = runs.config(tmp_path / "first", num_epochs=1)
    before = runs.trained_head(first, on).vocabulary
    wider = DraftVocabulary.from_target_ids(torch.arange(3, VOCAB_SIZE), VOCAB_SIZE)
    counted = TokenCounts(torch.ones(VOCAB_SIZE, dtype=torch.int64), 1, "")
    provenance = provenance_of(wider, counted, on.facts.sizes.name, "test")
    save_vocabulary(tmp_path / "wider.safetensors", wider, provenance)
    changes: dict[str, Any] = {
        "initial_head": str(tmp_path / "first" / "last"),
        "vocabulary": str(tmp_path / "wider.safetensors"),
    }
    head = make_head(dataclasses.replace(first, **changes).initialisation, on.facts, on.target, on.examples)
    stored = open_head(tmp_path / "first" / "last", on.target, torch.float32)
    assert torch.equal(head.vocabulary.target_ids, wider.target_ids) and torch.equal(head.fc.weight, stored.fc.weight)
    rows, output = dict(zip(wider.target_ids.tolist(), head.lm_head.weight, strict=True)), on.facts.tensors["output"]
    kept = {token: stored.lm_head.weight[draft] for draft, token in enumerate(before.target_ids.tolist())}
    assert 0 < len(kept.keys() & rows.keys()) < len(rows)
    for token, row in rows.items():
        assert torch.equal(row, kept.get(token, output[token]))


def test_conditioning_changes_the_optimizers_problem_and_not_the_head(tmp_path):
    """The exported head computes what the conditioned one computed in training."""
    on = runs.setting()
    head = runs.trained_head(runs.config(tmp_path, num_epochs=1), on)
    exported = open_head(tmp_path / "last", on.target, torch.float32)
    torch.testing.assert_close(exported.fc.weight, head.fc.weight, rtol=2**-7, atol=1e-6)  # stored in bf16
    assert "weight" in dict(unconditioned(head).fc.named_parameters()) and head.fc.weight is not None


def test_the_schedule_warms_up_and_ends_at_its_floor():
    config = runs.config(Path("unused"), learning_rate=1.0, warmup_steps=4, final_learning_rate=0.1)
    rates = [learning_rate(config.schedule, step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] == pytest.approx(0.1)


def test_every_optimizer_step_has_all_its_batches():
    """Trap: a last step with fewer batches than processes, and the others wait for the idle one's gradients forever."""
    config = runs.config(Path("unused"), batches_per_step=4, num_epochs=1)
    batching = config.batching
    planned = plan_steps(batching, [len(example) for example in runs.examples(37)])
    assert len(planned) > 1 and {len(step) for step in planned} == {4}
    assert plan_steps(batching, [20, 20]) == [plan_steps(batching, [20, 20])[0]]  # a run below one step is one step


def test_a_share_of_the_positions_is_chosen_among_those_with_a_loss():
    batch = collate(runs.examples(8), range(8))
    everything = choose_positions(batch.loss_mask, 1.0, seed=3)
    half = choose_positions(batch.loss_mask, 0.5, seed=3)
    assert not (half & ~everything).any()
    assert 0.3 < half.sum() / everything.sum() < 0.7  # 150 positions: off by 0.2 with probability below 1e-6


def test_batches_that_do_not_divide_among_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="steps have 2 batches, they need a multiple of the 3 processes"):
        runs.trainer(runs.config(tmp_path), runs.setting())

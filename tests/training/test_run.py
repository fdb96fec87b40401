"""One command from prompts to a head: data prepared on the way, features stored, plots drawn, the head in use."""

import dataclasses
import json

import pytest

from eagle.checkpoints.flat import open_head
from eagle.drafters.eagle3 import EagleDrafter
from eagle.loading import load_target
from eagle.training.run import make_data, train
from eagle.trees import EagleTree
from tests.training import runs


@pytest.fixture
def config(tmp_path):
    runs.save_target(tmp_path / "target")
    prompts = [{"id": str(i), "messages": [{"role": "user", "content": f"Say {i}!"}]} for i in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    settings = f"prompts: {tmp_path}/prompts.jsonl\noverlap_filter: false\nmax_new_tokens: 24\nnum_lanes: 12\n"
    (tmp_path / "data.yaml").write_text(settings)
    return runs.config(
        tmp_path / "run",
        target=str(tmp_path / "target"),
        data=str(tmp_path / "data"),
        prepare=str(tmp_path / "data.yaml"),
        features=str(tmp_path / "features"),
        fill_features=True,
        draft_vocab_size=20,
        max_length=256,
        tokens_per_batch=512,
        num_held_out=3,
        max_steps=3,
    )


def test_one_call_prepares_trains_and_leaves_a_usable_head(config, tmp_path):
    train(config)
    assert (tmp_path / "data" / "prepared").is_file()
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"overlap.png", "tau.png", "loss.png"}
    target = load_target(tmp_path / "target", device="cpu")
    EagleDrafter(open_head(tmp_path / "run" / "best", target), target.embed, EagleTree())


def test_preparing_is_finished_after_an_interruption_and_then_left_alone(config, tmp_path):
    target = load_target(config.target, device="cpu")
    make_data(config.sources, target)
    rows = next((tmp_path / "data").glob("conversations*.jsonl"))
    text = rows.read_text()
    rows.write_text("".join(text.splitlines(keepends=True)[:5]))
    (tmp_path / "data" / "prepared").unlink()
    make_data(config.sources, target)
    assert {json.loads(line)["id"] for line in rows.read_text().splitlines()} == {str(i) for i in range(12)}
    make_data(config.sources, None)


def test_data_from_elsewhere_is_left_alone(config, tmp_path):
    (tmp_path / "mine").mkdir()
    make_data(dataclasses.replace(config.sources, data=str(tmp_path / "mine")), None)
    assert not list((tmp_path / "mine").iterdir())


def test_generating_leaves_the_targets_attention_as_it_was(config):
    target = load_target(config.target, device="cpu")
    before = target.config._attn_implementation
    make_data(config.sources, target)
    assert target.config._attn_implementation == before

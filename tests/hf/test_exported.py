"""A model directory that drafts by itself, wherever transformers loads it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from eagle.cli import export_generate
from eagle.drafters.eagle3 import EagleDrafter
from eagle.hf.accelerated import is_accelerated
from eagle.hf.exported import GENERATE, export, head_beside
from tests.hf.written import write_pair


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model and a head on disk, and what was written of them."""
    root = tmp_path_factory.mktemp("exported")
    write_pair(root)
    export_generate.main([str(root / "model"), str(root / "head"), str(root / "written")])
    return root


def test_the_written_model_drafts_and_says_the_same(places, monkeypatch):
    ids = torch.tensor([[84, 104, 101, 32, 99]])
    plain = AutoModelForCausalLM.from_pretrained(places / "model", dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(places / "written", dtype=torch.float32, trust_remote_code=True)
    proposed = []
    proposing = EagleDrafter.proposing
    monkeypatch.setattr(EagleDrafter, "proposing", lambda *args: proposed.append(1) or proposing(*args))
    for given in ({"max_new_tokens": 12}, {"max_new_tokens": 8, "repetition_penalty": 1.3}):
        assert torch.equal(model.generate(ids, **given), plain.generate(ids, **given))
    assert is_accelerated(model) and proposed


def test_a_pipeline_of_the_directory_drafts(places):
    tokenizer = AutoTokenizer.from_pretrained(places / "written")
    told = {"max_new_tokens": 6, "do_sample": False}
    drafted = pipeline("text-generation", str(places / "written"), tokenizer=tokenizer, trust_remote_code=True)
    plain = pipeline("text-generation", str(places / "model"), tokenizer=tokenizer)
    assert drafted("The", **told) == plain("The", **told)
    assert is_accelerated(drafted.model)


def test_without_trust_nothing_is_run(places):
    model = AutoModelForCausalLM.from_pretrained(places / "written", dtype=torch.float32)
    model.generate(torch.tensor([[84, 104]]), max_new_tokens=2)
    assert not is_accelerated(model)


def test_what_is_written_is_model_head_and_recipe(places):
    names = {path.name for path in (places / "written").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "eagle_head", "custom_generate"} <= names
    assert (places / "written" / "custom_generate" / "generate.py").read_text() == GENERATE


def test_outputs_that_hold_something_and_models_without_a_head_are_refused(places):
    with pytest.raises(ValueError, match="is not empty: name another directory"):
        export(places / "model", places / "head", places / "written")
    with pytest.raises(FileNotFoundError, match="has no eagle_head: write it with"):
        head_beside(str(places / "model"))
    with pytest.raises(FileNotFoundError):
        export(places / "model", places / "nothing", places / "out")

"""Model `eagle-hsd` of lm-evaluation-harness against its model `hf`, on items of our own; nothing is fetched."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

from eagle.checkpoints.flat import save_head
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.target import Target
from eagle.hf.drafted_lm import DraftedLM
from tests import tiny_text
from tests.tiny import tiny_head

TEXTS = ["The capital of France is", "Once upon a time", "1 + 1 =", "A"]
ENDS = [("The sky is", " blue"), ("The sky is", " green"), ("Two", " and two are four"), ("", "x")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("lm")
    model = tiny_text.target()
    model.save_pretrained(root / "model")
    tiny_text.tokenizer().save_pretrained(root / "model")
    save_head(tiny_head(Target(model), draft_vocab_size=150), root / "head")
    return root


def arguments(place, batch_size: int) -> dict:
    return {"pretrained": str(place / "model"), "device": "cpu", "dtype": "float32", "batch_size": batch_size}


def instances(kind: str, requests: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, request, number) for number, request in enumerate(requests)]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("told", [{}, {"head": True}, {"head": True, "tree": "eagle:num_nodes=8,depth=3,top_k=3"}])
def test_outputs_are_those_of_hf(place, batch_size, told, monkeypatch):
    told = told | ({"head": str(place / "head")} if "head" in told else {})
    drafted, plain = DraftedLM(**arguments(place, batch_size), **told), HFLM(**arguments(place, batch_size))
    proposed = []
    proposing = EagleDrafter.proposing
    monkeypatch.setattr(EagleDrafter, "proposing", lambda *args: proposed.append(1) or proposing(*args))
    for fields in ({"until": ["\n", "e"], "max_gen_toks": 16}, {"until": [], "max_gen_toks": 9, "do_sample": False}):
        asked = [(text, fields) for text in TEXTS]
        texts = [lm.generate_until(instances("generate_until", asked), True) for lm in (drafted, plain)]
        assert texts[0] == texts[1] and any(texts[0])
    assert bool(proposed) is bool(told)
    for kind, requests in (("loglikelihood", ENDS), ("loglikelihood_rolling", [(text,) for text in TEXTS])):
        found = [getattr(lm, kind)(instances(kind, requests), True) for lm in (drafted, plain)]
        assert found[0] == found[1]


def test_the_harness_knows_it_by_name():
    assert get_model("eagle-hsd") is DraftedLM

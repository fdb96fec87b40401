"""Compiled passes against the eager ones, by family; paths, kept paths, whole texts; what is refused."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from eagle.compiled import lowering, passes
from eagle.compiled.passes import compile_passes
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.lowbit.low_bit_linear import shrink
from eagle.engine.masks import ancestor_matrix
from eagle.engine.target import Target
from eagle.files import write_json
from eagle.loading import load_head, load_target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree
from tests.engine.families import REFUSED, family_target
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

PARENTS = [-1, 0, 0, 1, 1, 2, 3]
PATH = [0, 1, 3, 6]
LONG = DecodeOptions(Sampling(), 48, ignore_end=True)
# float32 sums of a few hundred terms in another order, as between two eager passes (`tests/engine/test_target.py`)
TOLERANCE = 5e-5
YARN = {"rope_type": "yarn", "factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped": ("llama", {}),
    "every head its own, yarn": (
        "llama",
        {"num_key_value_heads": 4, "attention_bias": True, "rope_scaling": YARN, "max_position_embeddings": 64},
    ),
    "normed queries, window": ("gemma3_text", {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "window everywhere": ("mistral", {"sliding_window": 8}),  # the graph of the first: windows are data
}


def both(family: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Target, Target]:
    """The same random model, eager and compiled."""
    targets = [tiny_target(family, **changes) for _ in range(2)]
    for target in targets:
        target.model.to(dtype)
    compile_passes(targets[1], "on")
    return targets[0], targets[1]


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def pair(request) -> tuple[Target, Target]:
    return both(*FAMILIES[request.param])


def prefilled(target: Target, num_tokens: int = 20):
    cache = target.new_cache()
    target.prefill(torch.tensor(random_ids(num_tokens)), cache)
    return cache


def close(got, wanted) -> None:
    torch.testing.assert_close(got.logits, wanted.logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got.features, wanted.features, atol=TOLERANCE, rtol=0)


def test_a_tree_gets_the_eager_logits_and_features(pair):
    eager, compiled = pair
    for parents in (PARENTS, [-1], [-1, 0], [-1, *[0] * 40]):
        tokens = torch.tensor(random_ids(len(parents), seed=1))
        found = [one.forward_tree(tokens, ancestor_matrix(parents), prefilled(one)) for one in (compiled, eager)]
        assert found[0].logits.shape == found[1].logits.shape
        close(*found)


def test_a_kept_path_is_a_longer_prefix(pair):
    """Behind it a token gets the logits of the whole text, read afresh; paths of the tree do, too."""
    eager, compiled = pair
    prefix, tokens = torch.tensor(random_ids(20)), torch.tensor(random_ids(len(PARENTS), seed=1))
    cache = prefilled(compiled)
    tree = compiled.forward_tree(tokens, ancestor_matrix(PARENTS), cache)
    wanted = eager.read(torch.cat([prefix, tokens[PATH]])[None]).logits[0, -len(PATH) :]
    torch.testing.assert_close(tree.logits[PATH], wanted, atol=TOLERANCE, rtol=0)
    cache.keep(torch.tensor(PATH))
    following = compiled.prefill(torch.tensor([5]), cache)
    text = torch.cat([prefix, tokens[PATH], torch.tensor([5])])
    assert cache.length == len(text)
    torch.testing.assert_close(following.logits[0], eager.read(text[None]).logits[0, -1], atol=TOLERANCE, rtol=0)


def test_greedy_texts_are_plain_eager_decodings(pair):
    eager, compiled = pair
    options, prompt = DecodeOptions(Sampling(), 30), random_ids(9)
    wanted = tokens_of(autoregressive(eager, prompt, options))
    assert tokens_of(autoregressive(compiled, prompt, options)) == wanted
    drafter = EagleDrafter(tiny_head(compiled), compiled.embed, AutoTree(8))
    assert tokens_of(Session(compiled, drafter).decode(prompt, options)) == wanted
    sampled = DecodeOptions(Sampling(1.0), 30, "coupled")
    text = tokens_of(Session(compiled, drafter).decode(random_ids(7), sampled, seeded(3)))
    assert text == tokens_of(autoregressive(eager, random_ids(7), sampled, seeded(3)))


@pytest.mark.parametrize("bits", [None, 4])
def test_in_bfloat16_a_node_gets_bit_for_bit_what_plain_decoding_gets(bits):
    """Products, attention and norms of a row do not depend on the rows beside it: texts do not part at near-ties."""
    target = tiny_target()
    if bits:
        shrink(target.model, bits)
    target.model.to(torch.bfloat16)
    eager = prefilled(target)
    tokens = torch.tensor(random_ids(len(PARENTS), seed=1))
    wanted = target.forward_tree(tokens, ancestor_matrix(PARENTS), eager)
    compile_passes(target, "on")
    cache = prefilled(target)
    tree = target.forward_tree(tokens, ancestor_matrix(PARENTS), cache)
    # roundings to 8 bits in nine layers, of numbers up to 4; in four bits also those of inputs to 8 bits
    torch.testing.assert_close(tree.logits, wanted.logits, atol=0.25 if bits is None else 0.5, rtol=0)
    cache.keep(tokens[:0])
    for node in PATH:
        plain = target.prefill(tokens[node][None], cache)
        assert torch.equal(plain.features[0], tree.features[node])
        if bits is None:
            assert torch.equal(plain.logits[0], tree.logits[node])


def test_larger_trees_prompts_and_another_precision_stay_eager(pair):
    compiled = pair[1]
    assert not compiled.small_pass.takes(65, prefilled(compiled), torch.float32)
    assert not compiled.small_pass.takes(8, compiled.new_cache(), torch.float32)
    assert not compiled.small_pass.takes(8, prefilled(compiled), torch.bfloat16)
    assert compiled.small_pass.takes(64, prefilled(compiled), torch.float32)


def test_what_cannot_be_compiled_is_told_or_refused(capsys, monkeypatch):
    dynamic = tiny_target("llama", rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    with pytest.raises(ValueError, match=r"rotary angles change with the length .* leave --compile out"):
        compile_passes(dynamic, "on")
    compile_passes(dynamic, "auto")
    assert dynamic.small_pass is None and "its passes stay eager" in capsys.readouterr().err
    half = tiny_target()
    half.model.to(torch.float16)
    with pytest.raises(ValueError, match="its numbers are float16"):
        compile_passes(half, "on")
    with pytest.raises(ValueError, match="the logits of a tree's nodes differ by"):
        compile_passes(family_target("gpt_neo", REFUSED["gpt_neo"][1]), "on")

    def fails(*_arguments):
        raise ValueError("the kernels for this CPU cannot be built (no g++)")

    monkeypatch.setattr(passes, "lowered", fails)
    notices: list[str] = []
    compile_passes(tiny_target(), "auto", notices.append)
    assert len(notices) == 1 and "cannot be built (no g++); its passes stay eager" in notices[0]
    compile_passes(tiny_target(), "off", notices.append)
    assert len(notices) == 1


def test_a_wrong_graph_is_found_out(monkeypatch):
    target = tiny_target()
    monkeypatch.setattr(passes, "lowered", lambda *_arguments: _twisted(target))
    with pytest.raises(ValueError, match="its compiled logits differ by"):
        compile_passes(target, "on")


def test_a_damaged_file_is_made_again(tmp_path):
    assert lowering._read(tmp_path) is None
    write_json(tmp_path / lowering.WEIGHTS, ["model.lm_head.weight"])
    for content in (b"", b"not a graph", bytes(4096)):
        (tmp_path / lowering.GRAPH).write_bytes(content)
        assert lowering._read(tmp_path) is None


def _twisted(target: Target):
    def run(tokens, *_others):
        rows = torch.randn(len(tokens), target.vocab_size)
        return [rows, *(torch.randn(len(tokens), target.hidden_size) for _ in target.layers)]

    return run


def test_processors_without_bf16_instructions_use_torchs_products(tmp_path):
    """Another process builds the plain loops and compiles the same model without our product."""
    code = (
        "import torch; from eagle.kernels import compiler as c; c.FLAGS = (*c.FLAGS, '-DEAGLE_HSD_PLAIN');"
        "from tests.compiled.test_passes import *; target = tiny_target(); target.model.to(torch.bfloat16);"
        "compile_passes(target, 'on'); assert not c.kernels().has_product();"
        "tree = target.forward_tree(torch.arange(7), ancestor_matrix(PARENTS), prefilled(target));"
        f"torch.save(tree.logits, r'{tmp_path}/out.pt')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=600)
    target = tiny_target()
    target.model.to(torch.bfloat16)
    wanted = target.forward_tree(torch.arange(7), ancestor_matrix(PARENTS), prefilled(target)).logits
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), wanted, atol=0.25, rtol=0)  # as above


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_packaged_default_writes_its_own_text(dtype):
    """float32: that of plain eager decoding; bfloat16: that of plain compiled decoding, bit for bit the same pass."""
    target = load_target(device="cpu", dtype=dtype, compile="on")
    head = load_head(target=target)
    assert head.small_read is not None  # a head follows its target
    drafter = EagleDrafter(head, target.embed, AutoTree(8))
    ids = target.tokenizer("The three states of water are").input_ids
    steps = list(Session(target, drafter).decode(ids, LONG))
    plain = tokens_of(autoregressive(target, ids, LONG))
    assert tokens_of(steps) == plain and sum(step.num_accepted for step in steps) > 10
    if dtype == torch.float32:
        target.small_pass = None
        assert tokens_of(autoregressive(target, ids, LONG)) == plain

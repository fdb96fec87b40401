"""Low-bit weights: stored numbers, the kernel against the unpacked product, targets that decode with it."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.lowbit.low_bit_linear import LowBitLinear, shrink
from eagle.engine.lowbit.storage import BLOCK, can_be_stored, dequantise, quantise
from eagle.engine.masks import ancestor_matrix
from eagle.engine.requests import TreeScore
from eagle.kernels import compiler
from eagle.kernels.compiler import kernels
from eagle.loading import load_head, load_target
from eagle.sampling import Sampling, seeded
from eagle.trees import AutoTree
from tests.tiny import random_ids, tiny_head, tiny_target, tokens_of

GREEDY = DecodeOptions(Sampling(), 40, ignore_end=True)
COUPLED = DecodeOptions(Sampling(1.0), 40, "coupled", ignore_end=True)
SHAPES = [(16, 32), (48, 96), (192, 576)]  # outputs, inputs


def weight(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return 0.05 * torch.randn(shape, generator=seeded(seed))


def rounded(x: Tensor) -> Tensor:
    """Inputs as the kernel has them: 8 bits in blocks of 32."""
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    unit = blocks.abs().amax(-1, keepdim=True) / 127
    return (torch.where(unit > 0, (blocks / unit).round(), 0.0) * unit).flatten(-2)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_stored_once_is_stored_again_without_loss(bits, shape):
    first = dequantise(quantise(weight(shape), bits))
    assert torch.equal(dequantise(quantise(first, bits)), first)
    step = weight(shape).unflatten(-1, (-1, BLOCK))
    spread = step.amax(-1) - step.amin(-1) if bits == 4 else 2 * step.abs().amax(-1)
    error = (first - weight(shape)).abs().unflatten(-1, (-1, BLOCK)).amax(-1)
    # half a step, and the float16 of scale and offset (2^-11 each of numbers up to 15 steps, 128 in 8 bits)
    assert bool((error <= spread / (15 if bits == 4 else 254) * (0.5 + (0.02 if bits == 4 else 0.15))).all())


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_one_number_and_of_zeros_are_kept(bits):
    one = torch.cat([torch.full((16, 32), 0.25), torch.zeros(16, 32)], dim=1)
    torch.testing.assert_close(dequantise(quantise(one, bits)), one, atol=2e-4, rtol=0)  # float16 of 0.25 / 127


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_is_the_product_with_unpacked_weights(bits, shape, dtype):
    """Of rounded inputs, for numbers of rows below, at and above a chunk; a row is what it is among others."""
    layer = nn.Linear(shape[1], shape[0])
    layer.weight.data = weight(shape)
    low = LowBitLinear(layer, bits).to(dtype)
    for num_rows in (1, 2, 7, 8, 9, 16, 21, 70):
        x = torch.randn(num_rows, shape[1], generator=seeded(num_rows)).to(dtype)
        expected = rounded(x) @ dequantise(low.stored).T + low.bias.float()
        product = low(x)
        assert product.dtype == dtype
        if dtype == torch.float32:  # sums of some hundred products of numbers around 0.05, in another order
            torch.testing.assert_close(product, expected, atol=2e-5, rtol=1e-5)
        else:  # and rounded to 8 bits of mantissa twice, before the bias and behind it
            torch.testing.assert_close(product.float(), expected, atol=2e-2, rtol=2e-2)
        assert torch.equal(low(x[num_rows // 2][None]), product[num_rows // 2][None])


def test_leading_dimensions_stay_and_other_shapes_are_refused():
    low = LowBitLinear(nn.Linear(64, 32), 4)
    x = torch.randn(2, 3, 64)
    assert torch.equal(low(x), low(x.flatten(0, 1)).view(2, 3, 32))
    with pytest.raises(RuntimeError, match="input has 32 columns, weights 64"):
        low(x[..., :32])
    assert can_be_stored(32, 64) and not can_be_stored(24, 64) and not can_be_stored(32, 48)


def test_a_cast_of_the_model_leaves_the_stored_weights_alone():
    low = LowBitLinear(nn.Linear(64, 32), 4)
    before = dequantise(low.stored)
    assert torch.equal(dequantise(low.to(torch.bfloat16).stored), before)
    assert low.stored.bits == 4 and low.stored.num_bytes * 8 == 32 * 64 * 5  # a scale and an offset for 32 numbers
    torch.testing.assert_close(low.dequantised().weight, before)


def test_without_the_processors_own_instructions_the_result_is_the_same(tmp_path):
    """Another process builds the plain loops; sums run in the same order, so that only fused roundings may differ.

    A build that was killed left torch's lock behind: nobody waits for it.
    """
    layer, x = nn.Linear(96, 48), torch.randn(5, 96, generator=seeded(1))
    low = LowBitLinear(layer, 4)
    torch.save((x, low.numbers, low.scales, low.lows, low.bias), tmp_path / "in.pt")
    code = (
        "import torch; from eagle.kernels import compiler as b; b.FLAGS = (*b.FLAGS, '-DEAGLE_HSD_PLAIN');"
        "folder = b.cache_dir() / 'kernels' / b.machine(); folder.mkdir(parents=True, exist_ok=True);"
        "(folder / b.TORCHS_LOCK).touch();"
        f"torch.save(b.kernels().low_bit_linear(*torch.load(r'{tmp_path}/in.pt')), r'{tmp_path}/out.pt')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), low(x), atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 9), (5, 20), (8, 300)])
def test_attention_is_what_the_stock_kernel_computes(num_queries, num_keys, dtype):
    draws = seeded(num_keys)
    query, key, value = (
        torch.randn(1, heads, n, 64, generator=draws).to(dtype)
        for heads, n in ((6, num_queries), (2, num_keys + 7), (2, num_keys + 7))
    )
    key, value = key[:, :, :num_keys], value[:, :, :num_keys]  # views of larger buffers, as caches hand out
    hidden = torch.rand(1, 1, num_queries, num_keys, generator=draws) < 0.3
    hidden[..., 0] = False
    for mask in (torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(dtype).min).to(dtype), None):
        causal = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        expected = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), causal if mask is None else ~hidden, enable_gqa=True
        )
        found = kernels().attention(query, key, value, mask, 64**-0.5)
        # sums in another order of numbers around 1, and in bfloat16 one rounding of the result
        tolerance = 1e-5 if dtype == torch.float32 else 8e-3
        torch.testing.assert_close(found.float(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance)


def tiny(bits: int, dtype: torch.dtype = torch.float32):
    """Sizes of whole tiles and blocks, but for the output layer: 97 tokens stay what they were."""
    target = tiny_target()
    number = shrink(target.model, bits)
    target.model.to(dtype)
    return target, number


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_node_gets_bit_for_bit_what_plain_decoding_gets(bits, dtype):
    """The output layer of the tiny target is a stock one, so features are compared: they are what the layers made."""
    target, _ = tiny(bits, dtype)
    ids = torch.tensor(random_ids(30))
    cache = target.new_cache()
    target.prefill(ids[:20], cache)
    tree = target.forward_tree(ids[20:26], ancestor_matrix([-1, 0, 0, 1, 2, 2]), cache)
    cache.keep(ids[:0])
    for node in (0, 2, 5):  # a path of the tree, token by token
        plain = target.prefill(ids[20 + node][None], cache)
        assert torch.equal(plain.features[0], tree.features[node])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_of_a_batch_gets_bit_for_bit_what_it_gets_alone(bits, dtype):
    """Whatever shares its pass: texts of low-bit targets do not depend on their neighbours, in bfloat16 too."""
    target, _ = tiny(bits, dtype)
    trees = []
    for seed, (length, parents) in enumerate(((20, [-1, 0, 0, 1, 2, 2]), (3, [-1]), (31, [-1, 0, 1, 2]))):
        ids, cache = torch.tensor(random_ids(length + len(parents), seed)), target.new_cache()
        target.prefill(ids[:length], cache)
        trees.append(TreeScore(target, ids[length:], ancestor_matrix(parents), cache))
    alone = [tree.alone() for tree in trees]
    for tree in trees:
        tree.cache.keep(tree.tokens[:0])
    for one, other in zip(TreeScore.together(trees), alone, strict=True):
        assert torch.equal(one.features, other.features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [GREEDY, COUPLED], ids=["greedy", "coupled"])
def test_the_packaged_default_in_four_bits_writes_plain_decodings_text(options, dtype):
    """In bfloat16 too, where a target in bfloat16 does not."""
    target = load_target(device="cpu", quantization="cpu-int4", dtype=dtype)
    drafter = EagleDrafter(load_head(target=target), target.embed, AutoTree(8))
    ids = target.tokenizer("The three states of water are").input_ids
    steps = list(Session(target, drafter).decode(ids, options, seeded(5)))
    assert tokens_of(steps) == tokens_of(autoregressive(target, ids, options, seeded(5)))
    assert sum(step.num_accepted for step in steps) > 10


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("options", [DecodeOptions(Sampling(), 24), DecodeOptions(Sampling(1.0), 24, "coupled")])
def test_a_low_bit_target_writes_its_own_text_whatever_drafts(bits, options):
    target, number = tiny(bits)
    assert number == 9 * 7
    drafter = EagleDrafter(tiny_head(target), target.embed, AutoTree(8))
    text = tokens_of(Session(target, drafter).decode(random_ids(9), options, seeded(1)))
    assert text == tokens_of(autoregressive(target, random_ids(9), options, seeded(1)))


def test_the_packaged_default_is_stored_in_the_numbers_it_came_in(smollm2):
    """Its file has 4 bits in all layers and 8 in the embedding, which is the output layer too."""
    for layer in (smollm2.model.model.layers[0].mlp.down_proj, smollm2.model.model.layers[17].self_attn.q_proj):
        assert torch.equal(dequantise(quantise(layer.weight, 4)), layer.weight)
    output = smollm2.model.get_output_embeddings().weight[:4096]
    assert torch.equal(dequantise(quantise(output, 8)), output)


def test_a_target_is_loaded_in_four_bits():
    target = load_target(device="cpu", quantization="cpu-int4", dtype=torch.float32)
    layer = target.model.model.layers[3].mlp.gate_proj
    assert isinstance(layer, LowBitLinear) and layer.bits == 4
    assert target.model.get_output_embeddings().bits == 8 and target.dtype == torch.float32
    with pytest.raises(ValueError, match="'cpu-int4' is for one CPU"):
        load_target(quantization="cpu-int4", device_map="auto")


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch, tmp_path):
    def fails(*_args, **_options):
        raise RuntimeError("Ninja is required to load C++ extensions\nmore")

    monkeypatch.setattr("torch.utils.cpp_extension.load", fails)
    monkeypatch.setattr(compiler, "NAME", "eagle_hsd_unbuilt")
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be built \(Ninja is required .* pip install 'eagle-hsd\[fast\]'"):
        kernels()

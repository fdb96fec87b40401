"""Packed linear layers: the same products and parameters, and the layer's own forward where packing would be wrong."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from eagle.engine import packing
from eagle.engine.packing import MAX_ROWS, is_available, pack, stock
from tests.tiny import tiny_target

CAN_PACK = is_available()


def layers(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 48, bias=False)).to(dtype)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(count)).bfloat16()


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 5), (MAX_ROWS,), (MAX_ROWS + 1,)])
def test_packed_layers_compute_what_stock_ones_do(shape):
    """Both sum in float32 and round once a layer: they differ by a few units in the last place of bf16 (2 ** -8)."""
    model = layers()
    x = rows(torch.Size(shape).numel()).view(*shape, 64)
    with torch.inference_mode():
        expected = model(x)
        assert pack(model) == (2 if CAN_PACK else 0)
        torch.testing.assert_close(model(x), expected, rtol=2**-6, atol=2**-7)
        with stock(model):
            assert torch.equal(model(x), expected)


def test_parameters_and_state_stay_what_they_were():
    plain, model = layers(), layers()
    pack(model)
    assert type(model[0]) is nn.Linear
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert plain.state_dict().keys() == model.state_dict().keys()


def test_a_changed_weight_is_never_answered_from_the_packed_copy():
    model: Any = layers()
    pack(model)
    x = rows(3)
    with torch.no_grad():
        model[0].weight.mul_(2)
        expected = nn.functional.linear(x, model[0].weight, model[0].bias)
        assert torch.equal(model[0](x), expected)
        model[2].load_state_dict({"weight": torch.zeros(48, 96)})
        assert not model(x).any()


def test_gradients_other_dtypes_and_copies_take_the_layers_own_forward():
    model: Any = layers()
    pack(model)
    model(rows(3)).float().sum().backward()
    assert model[0].weight.grad is not None
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
        assert torch.equal(twin[0](rows(2)), twin[0].bias.expand(2, -1)) and model[0](rows(2)).any()
        model.float()
        assert model(rows(2).float()).dtype == torch.float32


class Gated(nn.Module):
    """Two layers of one input, one of which can be called with another."""

    def __init__(self, bias: bool = True):
        super().__init__()
        torch.manual_seed(1)
        self.gate_proj, self.up_proj = nn.Linear(64, 96, bias=bias), nn.Linear(64, 32)
        self.to(torch.bfloat16)

    def forward(self, x, y=None):
        return self.gate_proj(x), self.up_proj(x if y is None else y)


@pytest.mark.parametrize("bias", [True, False])  # without: the layers differ and are packed one by one
def test_layers_of_one_input_share_a_product(bias, monkeypatch):
    model = Gated(bias)
    products = []
    original = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    x, y = rows(5), rows(6)[:5]
    with torch.inference_mode():
        expected, crossed = model(x), model(x, y)
        pack(model)
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *a: products.append(a) or original(*a), False)
        for found, wanted in zip((*model(x), *model(x)), expected * 2, strict=True):
            torch.testing.assert_close(found, wanted, rtol=2**-6, atol=2**-7)  # as above
        assert len(products) == (0 if not CAN_PACK else 2 if bias else 4)
        for found, wanted in zip(model(x, y), crossed, strict=True):
            torch.testing.assert_close(found, wanted, rtol=2**-6, atol=2**-7)


def test_a_change_of_one_layer_is_seen_by_those_packed_with_it():
    model = Gated()
    pack(model)
    x = rows(3)
    with torch.no_grad():
        model.gate_proj.bias.add_(1)
        model.up_proj.weight.zero_()
        gate, up = model(x)
        assert torch.equal(gate, nn.functional.linear(x, model.gate_proj.weight, model.gate_proj.bias))
        assert torch.equal(up, model.up_proj.bias.expand(3, -1))


def test_float32_and_large_models_are_left_alone(monkeypatch):
    assert pack(layers(torch.float32)) == 0
    monkeypatch.setattr(packing, "MAX_BYTES", 100)
    assert pack(layers()) == 0


def test_a_whole_target_can_be_packed():
    target = tiny_target()
    target.model.to(torch.bfloat16)
    ids = torch.arange(6)[None]
    with torch.inference_mode():
        expected = target.model(ids).logits.float()
        pack(target.model)
        found = target.model(ids).logits.float()
    spread = expected.std()
    assert (found - expected).abs().max() < 0.05 * spread  # bf16 rounding through two layers; another weight: over 1

"""Products of a few rows."""

import pytest
import torch

from eagle.kernels.compiler import kernels
from eagle.sampling import seeded

pytestmark = pytest.mark.usefixtures("threads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(16, 32), (37, 40), (192, 576), (7, 8)], ids=str)  # outputs, inputs: whole or not
def test_the_product_is_torchs_and_a_row_is_what_it_is_alone(shape, with_bias, dtype):
    draws = seeded(shape[0])
    weight = torch.randn(shape, generator=draws).to(dtype)
    bias = torch.randn(shape[0], generator=draws).to(dtype) if with_bias else None
    for num_rows in (1, 2, 3, 5, 8, 9, 21, 64):
        x = torch.randn(1, num_rows, shape[1], generator=draws).to(dtype)
        product = kernels().product(x, weight, bias)
        expected = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
        # float32 sums of some hundred numbers around 1; in bfloat16 a rounding to 8 bits of the result as well
        atol, rtol = (5e-5, 1e-5) if dtype == torch.float32 else (1e-3, 2**-8)
        torch.testing.assert_close(product.double(), expected, atol=atol, rtol=rtol)
        if kernels().has_product():
            for row in (0, num_rows // 2, num_rows - 1):
                assert torch.equal(kernels().product(x[:, row], weight, bias)[0], product[0, row])


def test_a_weight_of_another_width_is_refused():
    if kernels().has_product():
        with pytest.raises(RuntimeError, match="input has 8 columns, the weight 16"):
            kernels().product(torch.zeros(2, 8).bfloat16(), torch.zeros(4, 16).bfloat16(), None)
        with pytest.raises(RuntimeError, match="input is Float, the weight BFloat16"):
            kernels().product(torch.zeros(2, 16), torch.zeros(4, 16).bfloat16(), None)

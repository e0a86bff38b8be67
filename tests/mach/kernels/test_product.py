from __future__ import annotations

import pytest
import torch

from mach.kernels import product as module
from mach.kernels.product import product, product_reference


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (64, 33, 130)])
def test_product_equals_plain_torch(onednn: bool, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain operands and transposed views, with and without bias."""
    if onednn and not module._ONEDNN:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "_ONEDNN", onednn)
    n, m, p = shape
    torch.manual_seed(0)
    for x in (torch.randn(n, m), torch.randn(m, n).T):
        for weight in (torch.randn(p, m), torch.randn(m, p).T):
            for bias in (None, torch.randn(p)):
                found = product(x, weight, bias)
                torch.testing.assert_close(found, product_reference(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_other_types_take_the_ordinary_way() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(product(x, x), x @ x.T, rtol=0, atol=0)

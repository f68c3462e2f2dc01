from __future__ import annotations

import pytest
import torch

from tangent.machine import products

SHAPES = [(3, 4, 5), (64, 300, 64), (1100, 64, 16), (160, 16, 1024)]


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_that_of_torch(m, n, k, turned, dtype):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(m, k, generator=generator, dtype=dtype)
    b = torch.randn(n, k, generator=generator, dtype=dtype)
    given = (a.t().contiguous().t(), b.t().contiguous().t()) if turned else (a, b)
    expected = (a.double() @ b.double().t()).to(dtype)
    torch.testing.assert_close(products.product(*given), expected, rtol=1e-4, atol=1e-4)
    bias = torch.randn(n, generator=generator, dtype=dtype)
    shifted = products.product(*given, bias)
    torch.testing.assert_close(shifted, expected + bias, rtol=1e-4, atol=1e-4)


def test_rows_with_gaps_between_them_are_multiplied_too():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 700, generator=generator)[:, :600]
    b = torch.randn(64, 700, generator=generator)[:, 50:650]
    torch.testing.assert_close(products.product(a, b), a @ b.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [8, 40])
@pytest.mark.parametrize("given", [False, True])
def test_a_batch_of_products_is_that_of_torch(p, given):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 300, p, generator=generator)
    b = torch.randn(3, p, 128, generator=generator)
    out = torch.empty(3, 300, 128) if given else None
    found = products.batched_product(a, b, out)
    torch.testing.assert_close(found, torch.bmm(a, b), rtol=1e-4, atol=1e-4)
    assert out is None or found is out


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_torch_still_has_the_operation_that_is_not_public():
    # Without it all is right and slower, which nobody would notice.
    assert products._has_onednn()

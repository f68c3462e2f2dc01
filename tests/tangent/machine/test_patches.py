"""Filters made of the patches of images."""

from __future__ import annotations

import numpy as np
import torch

from tangent.machine.patches import inverse_contrast, patch_filters, patch_windows, whitening

SIZE = (4, 3)


def drawn(images, count, generator):
    """Patches at drawn places, cut out one by one, channels last."""
    n, _, height, width = images.shape
    places = [
        torch.randint(bound, (count,), generator=generator).tolist()
        for bound in (n, height - SIZE[0] + 1, width - SIZE[1] + 1)
    ]
    return np.stack(
        [
            images[i, :, a : a + SIZE[0], b : b + SIZE[1]].numpy().transpose(1, 2, 0).ravel()
            for i, a, b in zip(*places, strict=True)
        ]
    )


def normalized(rows, offset):
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.sqrt((rows**2).sum(1, keepdims=True) + offset)


def test_a_response_is_that_of_the_whitened_normalized_patch(generator):
    images = torch.rand(9, 3, 8, 7, generator=generator, dtype=torch.float64)
    made = patch_filters(
        images, 5, size=SIZE, contrast=0.2, sample=300, generator=torch.Generator().manual_seed(3)
    )
    seeded = torch.Generator().manual_seed(3)
    rows = normalized(drawn(images, 300, seeded), made.offset)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    zca = vectors / np.sqrt(values + 1e-3) @ vectors.T
    filters = (normalized(drawn(images, 5, seeded), made.offset) - rows.mean(0)) @ zca
    filters /= np.linalg.norm(filters, axis=1, keepdims=True)
    raw = patch_windows(images, SIZE).reshape(9 * 5 * 5, -1)
    expected = (normalized(raw.numpy(), made.offset) - rows.mean(0)) @ zca @ filters.T
    over_contrast = raw * inverse_contrast(images, SIZE, made.offset)
    found = over_contrast @ made.weight[:-1] + made.weight[-1]
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert made.offset == 0.2**2 * 36


def test_whitened_patches_have_unit_variance_where_the_data_have_any():
    rows = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = rows @ torch.diag(torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64))
    zca, mean = whitening(mixed, 1e-9)
    white = (mixed - mean) @ zca
    torch.testing.assert_close(white.T @ white / len(rows), torch.eye(6, dtype=torch.float64))

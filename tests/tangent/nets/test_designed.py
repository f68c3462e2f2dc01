"""The designed CNN: frozen patches, whitened channels, shares, and its closed-form kernel."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from baselines.patches import patch_features
from tangent import TangentKernelClassifier, linearize, tangent_features, tangent_kernel
from tangent.machine.patches import PatchFilters, patch_filters
from tangent.nets import PooledPatches, designed_cnn, network
from tangent.nets.patches import patch_maps, pooled_responses
from tangent.nets.shares import ShareConv2d, dense_shares


@pytest.fixture
def images(generator):
    blocks = torch.rand(12, 3, 8, 8, generator=generator, dtype=torch.float64)
    fine = torch.rand(12, 3, 32, 32, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(blocks, 32) + 0.3 * fine


@pytest.fixture
def filters(images):
    seeded = torch.Generator().manual_seed(1)
    return patch_filters(images, 7, contrast=0.05, sample=500, generator=seeded)


@pytest.fixture
def model(images, filters, generator):
    branches = [PooledPatches(filters, images)]
    options = {"filters": 10, "channels": 5, "width": 3, "branches": branches, "units": 6}
    return designed_cnn(images, 2, **options, generator=generator)


def naive_response(images, filters, bias):
    """max(z - bias, 0) and max(-z - bias, 0), patch by patch."""
    size, n = filters.size[0], len(images)
    rows = []
    for top in range(images.shape[2] - size + 1):
        for left in range(images.shape[3] - size + 1):
            patch = images[:, :, top : top + size, left : left + size]
            patch = patch.permute(0, 2, 3, 1).reshape(n, -1)
            norm = ((patch - patch.mean(1, keepdim=True)) ** 2).sum(1, keepdim=True)
            z = (patch / (norm + filters.offset).sqrt()) @ filters.weight[:-1] + filters.weight[-1]
            rows.append(torch.cat([z - bias, -z - bias], 1).clamp_min(0))
    side = images.shape[2] - size + 1
    return torch.stack(rows, 2).view(n, -1, side, side)


@pytest.mark.parametrize("pooling", [(3, 2), (9, 9), (4, 3)])
def test_patch_maps_are_averages_of_what_each_patch_gives(images, filters, pooling):
    expected = nn.functional.avg_pool2d(naive_response(images, filters, 0.3), *pooling)
    found = patch_maps(images, filters.weight, filters.size, filters.offset, 0.3, pooling)
    torch.testing.assert_close(found, expected)


def test_pooled_responses_are_those_of_the_random_patch_baseline(images):
    x = images.float()
    made = patch_filters(x, 9, contrast=0.04, generator=torch.Generator().manual_seed(5))
    sums = torch.empty(len(x), 2, 9, 9)
    patch_features(x, made, bias=0.5, grid=(3, 3), out=sums)
    (means,) = pooled_responses(x, made.weight, made.size, made.offset, 0.5, [(9, 9)])
    expected = sums.permute(0, 1, 3, 2).reshape(means.shape) / 81
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-5)


def test_filters_in_many_blocks_are_the_filters_in_one(images, monkeypatch, filters):
    arguments = (images, filters.weight, filters.size, filters.offset, 0.3, [(3, 2)])
    whole = pooled_responses(*arguments)[0]
    monkeypatch.setattr("tangent.nets.patches._FILTERS", 3)
    torch.testing.assert_close(pooled_responses(*arguments)[0], whole)


def test_whitened_channels_are_uncorrelated_with_variance_one(images, model):
    maps = torch.cat([model.frozen(images), model.frozen(images.flip(3))])
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows.mean(0), torch.zeros(5).double(), atol=1e-9, rtol=0)
    covariance = rows.T @ rows / len(rows)
    torch.testing.assert_close(covariance, torch.eye(5).double(), atol=1e-6, rtol=0)


def test_only_the_linearized_part_has_parameters(images):
    model = designed_cnn(images.float(), 1, filters=40)
    assert sum(p.numel() for p in model.parameters()) == 37_505
    assert not list(model.frozen.parameters())


def closed_form(model, images, output):
    """Kernel of one output as the sum of its closed-form shares."""
    hidden, last = model.features(model.views(images, model.frozen), output)
    kernel = hidden @ hidden.T + last @ last.T
    for branch in model.branches:
        rows = model.views(images, branch.features)
        kernel = kernel + sum(dense_shares(branch.hidden, branch.head, rows, rows, output))
    return kernel


@pytest.mark.parametrize("output", [0, 1])
def test_closed_forms_sum_to_the_tangent_kernel(images, model, output):
    expected = tangent_kernel(model, images, outputs=output)
    torch.testing.assert_close(closed_form(model, images, output), expected)


def test_closed_form_features_are_the_tangent_features(images, model):
    hidden, last = model.features(model.views(images, model.frozen))
    conv, _, _, _, head = model.linearized
    phi = tangent_features(model, images, per_layer=True)
    names = {id(p): name for name, p in model.named_parameters()}
    weight, bias = (phi[names[id(p)]][:, 0] for p in (conv.weight, conv.bias))
    expected = torch.cat([weight.view(12, 3, -1), bias[:, :, None]], 2).flatten(1)
    torch.testing.assert_close(hidden, expected)
    weight, bias = (phi[names[id(p)]][:, 0] for p in (head.weight, head.bias))
    # Rows of the other output have no gradient of this one.
    per_output = last.shape[1] - 1
    torch.testing.assert_close(last, torch.cat([weight[:, :per_output], bias[:, :1]], 1))


def test_blocks_of_rows_do_not_change_a_dense_share(images, model, monkeypatch):
    branch = model.branches[0]
    rows = model.views(images, branch.features)
    whole = dense_shares(branch.hidden, branch.head, rows, rows[:, :5])
    monkeypatch.setattr("tangent.nets.shares._ROWS", 5)
    torch.testing.assert_close(dense_shares(branch.hidden, branch.head, rows, rows[:, :5]), whole)
    both = dense_shares(branch.hidden, branch.head, rows, rows)
    symmetric = dense_shares(branch.hidden, branch.head, rows)
    torch.testing.assert_close(symmetric, both)
    assert all(torch.equal(share, share.T) for share in symmetric)


def test_shares_are_the_traces_asked_for(images, model):
    conv, _, _, _, head = model.linearized
    names = {id(p): name for name, p in model.named_parameters()}
    for layer, share in ((conv, 1.0), (head, 0.25)):
        wanted = [names[id(p)] for p in (layer.weight, layer.bias)]
        kernel = tangent_kernel(model, images, outputs="trace", parameters=wanted) / 2
        assert float(kernel.diagonal().mean() - kernel.mean()) == pytest.approx(share)
    kernel = tangent_kernel(model, images, outputs="trace", parameters=["branches.0"]) / 2
    assert float(kernel.diagonal().mean() - kernel.mean()) == pytest.approx(0.3)


def test_setting_shares_changes_no_output_and_travels_with_the_weights(images, model, filters):
    conv = model.linearized[0]
    before, scale = model(images), conv.scale
    conv.rescale(3.0)
    torch.testing.assert_close(model(images), before)
    assert conv.scale == 3 * scale
    fresh = ShareConv2d(5, 3, 3, padding=1).double()
    fresh.load_state_dict(conv.state_dict())
    assert fresh.scale == conv.scale


def test_an_image_and_its_mirror_image_have_the_same_output(images, model):
    torch.testing.assert_close(model(images), model(images.flip(3)))


def test_the_linearized_model_moves_by_its_tangent_features(images, model, generator):
    tangent = linearize(model)
    with torch.no_grad():
        for delta in tangent.delta:
            delta.normal_(generator=generator)
    phi = tangent_features(model, images)
    moved = torch.cat([d.detach().flatten() for d in tangent.delta])
    torch.testing.assert_close(tangent(images).detach(), phi @ moved)


def test_the_same_seed_gives_the_same_network(images):
    one, two = (
        designed_cnn(images, 2, filters=6, width=2, generator=torch.Generator().manual_seed(4))
        for _ in range(2)
    )
    assert torch.equal(one(images), two(images))


def test_rescaled_pixels_give_the_same_network(images):
    one, two = (
        designed_cnn(x, 2, filters=6, width=2, generator=torch.Generator().manual_seed(4))(x)
        for x in (images, 8 * images)
    )
    torch.testing.assert_close(one, two)


def test_a_moving_layer_before_the_patches_is_refused(images, filters):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.register_buffer("filters", filters.weight)

        def forward(self, x):
            moved = self.conv(x)
            return patch_maps(moved, self.filters, (6, 6), filters.offset, 0.5, (3, 2)).flatten(1)

    with pytest.raises(ValueError, match="frozen"):
        linearize(Patches().double())(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"filters": 0}, "filters must be positive"), ({"width": -1}, "width must be positive")],
)
def test_wrong_sizes_are_named(images, change, message):
    with pytest.raises(ValueError, match=message):
        designed_cnn(images, **change)


def test_small_images_are_refused(images):
    with pytest.raises(ValueError, match=r"side of at least 20.*16.*resize"):
        designed_cnn(images[:, :, :16, :16])


def digits(generator, n=40):
    """Two classes of images: bars that lie and bars that stand."""
    x = 0.2 * torch.rand(n, 1, 20, 20, generator=generator)
    y = torch.arange(n) % 2
    for i in range(n):
        place = int(torch.randint(14, (), generator=generator))
        if y[i]:
            x[i, 0, place : place + 3] += 1
        else:
            x[i, 0, :, place : place + 3] += 1
    return x.numpy(), y.numpy()


def test_the_classifier_builds_it_from_the_images_it_is_given(generator):
    X, y = digits(generator)
    model = TangentKernelClassifier(
        "designed_cnn", image_shape=(1, 20, 20), n_ensemble=1, loss="square", random_state=0
    )
    fitted = model.fit(X[:30], y[:30])
    assert np.mean(fitted.predict(X[30:]) == y[30:]) == 1.0
    assert fitted.kernel_.networks[0].frozen.patches.filters.shape == (37, 512)


def test_its_name_needs_images():
    with pytest.raises(ValueError, match="designed_cnn' is built from images"):
        network("designed_cnn", (3, 32, 32), 10)
    with pytest.raises(ValueError, match="set image_shape"):
        TangentKernelClassifier("designed_cnn").fit(np.eye(6), [0, 1] * 3)


def test_filters_are_said_with_what_they_need(filters):
    assert isinstance(filters, PatchFilters)
    assert filters.offset == pytest.approx(0.05**2 * 108)
    assert math.isfinite(float(filters.weight.abs().max()))

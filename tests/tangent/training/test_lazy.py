from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tangent import ScaledDifference, linearize, mlp, stability_edge, vgg11
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs, crop_and_flip
from tangent.training.layout import channels_last, like_weights
from tangent.training.lazy import (
    DivergenceError,
    LazySettings,
    outputs,
    stability_of_activations,
    train,
)
from tangent.training.learning_rate import largest_kernel_eigenvalue


def plain_inputs(x: torch.Tensor) -> Inputs:
    return Inputs(x, torch.zeros((), dtype=x.dtype), torch.ones((), dtype=x.dtype), x.dtype)


def problem(generator, n=24, d=5, k=3):
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, k, (n,), generator=generator)


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize("alpha", [1.0, 30.0])
def test_training_delta_is_training_w_with_the_papers_scaled_loss(generator, loss, alpha):
    x, labels = problem(generator)
    network = mlp(5, 3, hidden=(8,), generator=generator).double()
    settings = LazySettings(loss, lr=0.05, momentum=0.9, decay=0.5, epochs=4, batch_size=7)
    module = ScaledDifference(network, alpha)
    train(
        module,
        plain_inputs(x),
        loss_named(loss).targets(labels, 3, torch.float64),
        settings,
        generator=torch.Generator().manual_seed(1),
    )

    moved = copy.deepcopy(network)
    optimizer = torch.optim.SGD(moved.parameters(), lr=1.0, momentum=0.9)
    shuffle = torch.Generator().manual_seed(1)
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + 0.5 * epoch)
        for index in torch.randperm(24, generator=shuffle).split(7):
            scaled = alpha * (moved(x[index]) - network(x[index]).detach())
            if loss == "square":
                target = nn.functional.one_hot(labels[index], 3).double()
                value = ((scaled - target) ** 2).mean() / alpha**2
            else:
                value = nn.functional.cross_entropy(scaled, labels[index]) / alpha**2
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    ours = module.displaced()
    for got, expected in zip(ours.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_the_history_has_the_schedule_and_a_falling_loss(generator):
    x, labels = problem(generator)
    module = linearize(mlp(5, 3, hidden=(32,), generator=generator).double())
    settings = LazySettings(lr=0.1, decay=1 / 3, epochs=6, batch_size=24)
    target = loss_named("square").targets(labels, 3, torch.float64)
    history = train(module, plain_inputs(x), target, settings)
    assert history.lr == pytest.approx([0.1 / (1 + t / 3) for t in range(6)])
    assert history.loss[0] == pytest.approx(1 / 3)  # one-hot targets, zero outputs
    assert history.loss[-1] < history.loss[0]
    assert len(history.seconds) == 6


def test_divergence_is_an_error_that_says_what_to_change(generator):
    x, labels = problem(generator)
    module = linearize(mlp(5, 3, generator=generator))
    target = loss_named("square").targets(labels, 3, torch.float32)
    settings = LazySettings(lr=1e6, epochs=50)
    with pytest.raises(DivergenceError, match=r"at step \d+ \(alpha=inf, lr=1e\+06.*smaller lr"):
        train(module, plain_inputs(x.float()), target, settings)


def test_gradient_descent_turns_unstable_at_the_edge(generator):
    x, labels = problem(generator)
    module = linearize(mlp(5, 3, hidden=(16,), generator=generator).double())
    loss = loss_named("square")
    target = loss.targets(labels, 3, torch.float64)
    for momentum in (0.0, 0.9):
        edge = stability_edge(module, x, loss, momentum=momentum, iterations=200, tolerance=1e-6)
        final = []
        for lr in (0.97 * edge, 1.03 * edge):
            twin = copy.deepcopy(module)
            settings = LazySettings(lr=lr, momentum=momentum, epochs=300, batch_size=24)
            final.append(train(twin, plain_inputs(x), target, settings).loss[-1])
        assert final[0] < 1 / 3 < 10 < final[1]


def test_the_kernels_eigenvalue_is_that_of_the_jacobian(generator):
    network = mlp(5, 3, hidden=(16,), generator=generator).double()
    x, _ = problem(generator)
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(network, w, (x,)))(
        dict(network.named_parameters())
    )
    whole = torch.cat([j.flatten(2).flatten(0, 1) for j in jacobian.values()], dim=1)
    expected = torch.linalg.matrix_norm(whole.detach(), 2) ** 2
    for batch_size in (None, 7):
        bounds = largest_kernel_eigenvalue(
            ScaledDifference(network, 3.0), x, tolerance=1e-8, batch_size=batch_size
        )
        assert bounds.lower == pytest.approx(float(expected), rel=1e-8)
        assert bounds.upper == pytest.approx(float(expected), rel=1e-7)


def known_kernel(eigenvalues):
    """A linear model with one output, and inputs that give its kernel these eigenvalues."""
    network = nn.Linear(len(eigenvalues), 1, bias=False).double()
    rotation, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues)).double())
    return linearize(network), rotation @ torch.diag(eigenvalues.sqrt())


def test_the_edge_is_on_the_safe_side_where_leading_eigenvalues_are_close():
    eigenvalues = torch.cat([torch.linspace(1, 0.85, 12), torch.linspace(0.5, 0, 188)]).double()
    module, x = known_kernel(eigenvalues)
    exact = 2 / (2 * 1.0 / len(x))
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        edge = stability_edge(module, x, "square", generator=generator)
        assert exact / 1.06 < edge <= exact


def test_the_edge_is_that_of_the_loss_named_or_given_and_grows_with_momentum(generator):
    module, x = known_kernel(torch.linspace(1, 0, 20).double())
    seed = torch.Generator().manual_seed
    options = {"iterations": 20, "tolerance": 1e-9}
    named = stability_edge(module, x, "square", generator=seed(1), **options)
    given = stability_edge(module, x, loss_named("square"), generator=seed(1), **options)
    assert named == given == pytest.approx(20)
    faster = stability_edge(module, x, "square", momentum=0.5, generator=seed(1), **options)
    assert faster == pytest.approx(30)
    with pytest.raises(ValueError, match="loss must be one of 'square', 'cross_entropy'; got 'hi'"):
        stability_edge(module, x, "hi")


def test_no_movement_has_no_edge():
    network = nn.Linear(3, 1, bias=False)
    assert stability_edge(linearize(network), torch.zeros(4, 3), "square") == math.inf


def test_stability_takes_a_plain_tensor(generator):
    x = torch.randn(9, 5, generator=generator)
    module = ScaledDifference(mlp(5, 3, hidden=(40,), generator=generator), 1.0)
    for parameter in module.delta:
        parameter.data.normal_(generator=generator)
    found = stability_of_activations(module, x, batch_size=4)
    assert found == stability_of_activations(module, plain_inputs(x))
    assert 0 < min(found.values()) < 1


def test_stability_falls_with_the_displacement_and_is_one_at_infinity(generator):
    x = torch.randn(8, 3, 32, 32, generator=generator)
    network = vgg11(width=0.1, generator=generator)
    delta = [0.05 * torch.randn(p.shape, generator=generator) for p in network.parameters()]
    means = []
    for alpha in (1.0, 100.0, math.inf):
        module = ScaledDifference(network, alpha)
        for parameter, value in zip(module.delta, delta, strict=True):
            parameter.data.copy_(value)
        stability = stability_of_activations(module, plain_inputs(x), batch_size=3)
        assert len(stability) == 8 + 5
        means.append(sum(stability.values()) / len(stability))
    assert means[0] < means[1] < means[2] == 1.0
    assert means[1] > 0.9


def test_outputs_do_not_depend_on_the_batch_size(generator):
    x, _ = problem(generator)
    module = linearize(mlp(5, 3, generator=generator).double())
    module.delta[0].data.normal_(generator=generator)
    whole = outputs(module, plain_inputs(x))
    torch.testing.assert_close(outputs(module, plain_inputs(x), batch_size=5), whole)


def test_crops_are_pieces_of_the_padded_image_or_of_its_mirror(generator):
    x = torch.randint(1, 255, (40, 2, 6, 5), generator=generator, dtype=torch.uint8)
    cropped = crop_and_flip(x, pad=2, generator=generator)
    assert cropped.shape == x.shape
    assert cropped.dtype == torch.uint8
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    mirrored = set()
    for image, around in zip(cropped, padded, strict=True):
        found = [
            flip
            for flip in (False, True)
            for i in range(5)
            for j in range(5)
            if torch.equal(image.flip(-1) if flip else image, around[:, i : i + 6, j : j + 5])
        ]
        assert found
        mirrored.update(found)
    assert mirrored == {False, True}


def test_the_same_seed_augments_alike(generator):
    x = torch.rand(4, 3, 8, 8, generator=generator)
    first, second = (crop_and_flip(x, generator=torch.Generator().manual_seed(2)) for _ in "ab")
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of 'square', 'cross_entropy'; got 'hinge'"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"decay": -1.0}, "decay must be at least 0"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be an integer"),
    ],
)
def test_bad_settings_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        LazySettings(**option)


def test_channels_last_changes_the_layout_and_no_value(generator):
    network = vgg11(width=0.05, generator=generator)
    module = ScaledDifference(network, 1e3)
    for delta in module.delta:
        nn.init.normal_(delta, generator=generator)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    before = module(x)
    channels_last(module)
    assert not module.delta[2].is_contiguous()
    assert not like_weights(x, module).is_contiguous()
    torch.testing.assert_close(module(like_weights(x, module)), before, rtol=1e-3, atol=1e-3)


def test_float64_weights_keep_their_layout(generator):
    module = linearize(vgg11(width=0.02, generator=generator).double())
    channels_last(module)
    assert all(p.is_contiguous() for p in module.parameters())
    x = torch.randn(2, 3, 32, 32)
    assert like_weights(x, module) is x


@pytest.mark.parametrize("micro", [1, 3, 100])
def test_micro_batches_give_the_gradient_of_the_whole_batch(generator, micro):
    x, labels = problem(generator)
    target = loss_named("cross_entropy").targets(labels, 3, torch.float64)
    network = mlp(5, 3, hidden=(8,), generator=generator).double()
    trained = []
    for size in (None, micro):
        module = ScaledDifference(network, 10.0)
        settings = LazySettings("cross_entropy", 0.1, batch_size=7, epochs=2, micro_batch_size=size)
        seed = torch.Generator().manual_seed(3)
        history = train(module, plain_inputs(x), target, settings, generator=seed)
        trained.append((history.loss, [d.detach() for d in module.delta]))
    torch.testing.assert_close(*trained)


def test_training_stops_when_the_loss_is_steady(generator):
    x, labels = problem(generator)
    target = loss_named("square").targets(labels, 3, torch.float64)
    module = linearize(mlp(5, 3, hidden=(4,), generator=generator).double())
    settings = LazySettings(lr=1e-9, epochs=50, batch_size=24, patience=3, tolerance=1e-3)
    history = train(module, plain_inputs(x), target, settings)
    assert len(history.loss) == 4


@pytest.mark.parametrize(
    ("losses", "steady"),
    [([1.0, 0.9], False), ([1.0, 0.9, 0.8], False), ([1.0, 0.9999, 1.2], True)],
)
def test_a_loss_is_steady_when_its_best_stays(losses, steady):
    assert LazySettings(patience=2, tolerance=1e-3).steady(losses) is steady

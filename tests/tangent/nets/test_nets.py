import copy

import pytest
import torch
import torchvision
from torch import nn

from tangent import mlp, resnet18, vgg11
from tangent.nets import ScaledConv2d, network, two_layer


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "width", "expected"),
    [(vgg11, 1, 9_225_610), (vgg11, 8, 589_900_810), (resnet18, 1, 11_169_162)],
)
def test_parameter_counts_are_the_papers(build, width, expected):
    with torch.device("meta"):
        assert count(build(width=width)) == expected


def test_vgg11_computes_what_torchvisions_features_compute(generator):
    model = vgg11(generator=generator)
    theirs = torchvision.models.vgg11(weights=None).features
    convs = [m for m in model if isinstance(m, nn.Conv2d)]
    targets = [m for m in theirs if isinstance(m, nn.Conv2d)]
    for ours, target in zip(convs, targets, strict=True):
        target.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=generator)
    expected = theirs(x).flatten(1) @ model[-1].weight.T + model[-1].bias
    torch.testing.assert_close(model(x), expected)


def test_resnet18_has_torchvisions_blocks(generator):
    model = resnet18(generator=generator).double()
    theirs = torchvision.models.resnet18(weights=None, norm_layer=lambda c: nn.Identity()).double()
    theirs.conv1 = model[0]
    theirs.maxpool = nn.Identity()
    theirs.fc = model[-1]
    blocks = [
        m for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4) for m in layer
    ]
    for ours, target in zip(model[2:10], blocks, strict=True):
        target.conv1, target.conv2 = ours.conv1, ours.conv2
        if target.downsample is not None:
            # theirs strides where ours reads the subsample
            target.downsample = copy.deepcopy(ours.shortcut)
            target.downsample.stride = (ours.stride, ours.stride)
    x = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(model(x), theirs(x))


def test_weights_are_xavier_normal_and_biases_zero(generator):
    model = vgg11(gain=1.3, generator=generator)
    conv = model[6]
    fan = (conv.in_channels + conv.out_channels) * 9
    assert conv.weight.std().item() == pytest.approx(1.3 * (2 / fan) ** 0.5, rel=0.01)
    assert all(not m.bias.any() for m in model if isinstance(m, nn.Conv2d | nn.Linear))


def test_same_seed_gives_the_same_weights():
    a, b = (resnet18(width=0.1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("build", [vgg11, resnet18])
def test_any_channels_size_and_classes(build, size):
    model = build(3, in_channels=2, image_size=size, width=0.05)
    assert model(torch.zeros(2, 2, size, size)).shape == (2, 3)


def test_the_ntk_friendly_variants_run(generator):
    model = vgg11(
        pooling="average",
        head="global-average",
        parametrization="ntk",
        width=0.1,
        generator=generator,
    )
    x = torch.randn(2, 3, 32, 32, generator=generator)
    before_the_average = model[:-3](x)
    assert before_the_average.shape[-2:] == (8, 8)
    assert model(x).shape == (2, 10)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model)


def test_ntk_parametrization_keeps_unit_weights_and_scales_the_layer(generator):
    layer = ScaledConv2d(4, 5, 3, gain=2.0).double()
    x = torch.randn(1, 4, 6, 6, generator=generator, dtype=torch.float64)
    plain = nn.Conv2d(4, 5, 3).double()
    plain.weight.data = layer.weight * 2.0 / 6.0
    plain.bias.data = layer.bias
    torch.testing.assert_close(layer(x), plain(x))


def test_a_symmetric_two_layer_network_is_exactly_zero(generator):
    model = two_layer(100, 50, tau=3.0, generator=generator)
    x = torch.randn(20, 100, generator=generator, dtype=torch.float64)
    assert model(x).abs().max() < 1e-12
    assert two_layer(100, 50, symmetric=False, generator=generator)(x).abs().max() > 1


def test_mlp_has_the_layers_it_was_asked_for():
    assert count(mlp(4, 3, hidden=(8, 16), width=0.5)) == 4 * 4 + 4 + 4 * 8 + 8 + 8 * 3 + 3


def test_network_by_name_flattens_images_for_an_mlp():
    assert network("mlp", (1, 8, 8), 3, width=0.1)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vgg11(image_size=16), "image_size must be at least 32"),
        (lambda: vgg11(pooling="min"), "pooling must be one of 'max', 'average'; got 'min'"),
        (lambda: resnet18(width=0), "width must be positive"),
        (lambda: network("vgg", (3, 32, 32), 10), "model must be one of 'vgg11'"),
        (lambda: network("vgg11", (3072,), 10), "set image_shape"),
        (lambda: two_layer(2, 5), "m must be even"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


@pytest.mark.parametrize(
    "build",
    [
        lambda g: mlp(4, 2, hidden=(5,), generator=g),
        lambda g: two_layer(3, 8, generator=g),
        lambda g: vgg11(width=0.05, generator=g),
        lambda g: resnet18(width=0.05, generator=g),
        lambda g: network("mlp", (4,), 2, generator=g),
    ],
)
def test_a_network_with_a_generator_leaves_torchs_random_state_alone(build):
    before = torch.get_rng_state()
    first = build(torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    for a, b in zip(
        first.parameters(), build(torch.Generator().manual_seed(0)).parameters(), strict=True
    ):
        assert torch.equal(a, b)
    torch.manual_seed(1)
    one = [p.clone() for p in build(None).parameters()]
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(one, build(None).parameters(), strict=True))

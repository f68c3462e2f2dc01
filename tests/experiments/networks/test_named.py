"""One way to name a network: of this project, of a library, of one's own."""

from __future__ import annotations

import sys

import pytest
import torch

from experiments.networks import named as networks
from experiments.usage import UsageError


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (1, 8, 8)), ("vgg11", (3, 32, 32)), ("torchvision:resnet18", (3, 32, 32))],
)
def test_a_network_is_made_by_its_name_and_the_seed_alone(name, shape):
    make = networks.factory(name, width=0.05)
    state = torch.get_rng_state()
    one, other = (make(shape, 4, _generator()).eval() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(2, *shape)
    torch.testing.assert_close(one(x), other(x))
    assert one(x).shape == (2, 4)
    assert not torch.allclose(one(x), make(shape, 4, _generator(1)).eval()(x))


def test_a_network_of_timm_takes_the_datas_channels():
    pytest.importorskip("timm")
    make = networks.factory("timm:test_resnet")
    assert make((1, 32, 32), 3, _generator()).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg12", "vgg11"),
        ("torchvision:resnet19", "resnet1"),
        ("nowhere.at.all:build", "cannot be imported"),
        ("missing.py:build", "there is no file"),
    ],
)
def test_a_name_that_is_none_is_an_error_with_a_way_out(name, words):
    with pytest.raises(UsageError, match=words):
        networks.identity(name)


def test_a_function_of_another_signature_is_found_before_any_run(tmp_path):
    path = tmp_path / "other.py"
    path.write_text("def build(n_outputs):\n    return None\n")
    with pytest.raises(UsageError, match=r"--model '.*other\.py:build': .*\(n_outputs\)"):
        networks.identity(f"{path}:build")


def test_weights_that_are_none_are_found_before_any_run(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"no weights at all")
    with pytest.raises(UsageError, match=r"--weights .* cannot be read as safetensors"):
        networks.identity("mlp", str(path))


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"--model 'timm:test_resnet' needs .*pip install timm"):
        networks.identity("timm:test_resnet")


def test_torchvisions_networks_want_three_channels():
    with pytest.raises(UsageError, match="3 channels; the data has 1"):
        networks.factory("torchvision:resnet18")((1, 32, 32), 10, _generator())


def test_an_own_network_is_known_by_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def build(input_shape, n_outputs, generator):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs))\n"
    )
    first = networks.identity(f"{path}:build")
    made = networks.factory(f"{path}:build", source=first["source"])((1, 4, 4), 2, _generator())
    assert made(torch.zeros(3, 1, 4, 4)).shape == (3, 2)
    path.write_text(path.read_text() + "\n")
    assert networks.identity(f"{path}:build") != first


def test_weights_are_loaded_and_known_by_their_digest(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    make = networks.factory("mlp", width=0.05)
    source, path = make((1, 4, 4), 2, _generator(5)), tmp_path / "weights.safetensors"
    safetensors.save_file(source.state_dict(), path)
    assert len(networks.identity("mlp", str(path))["weights_digest"]) == 12
    loaded = networks.with_weights(make((1, 4, 4), 2, _generator()), str(path), "mlp")
    x = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(loaded(x), source(x))
    with pytest.raises(UsageError, match="do not fit --model mlp"):
        networks.with_weights(make((1, 5, 5), 2, _generator()), str(path), "mlp")
    with pytest.raises(UsageError, match="there is no such file"):
        networks.identity("mlp", str(tmp_path / "none.safetensors"))

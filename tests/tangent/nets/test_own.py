"""Networks of the user's own: found, known by their content, called in one way."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tangent
from tangent import LazyClassifier
from tangent.nets import network
from tangent.nets.own import NetworkNameError, own_network, source

OWN = """
import torch
from torch import nn
import beside_own_net

def build(input_shape, n_outputs, generator):
    layer = nn.Linear(input_shape[0], n_outputs)
    nn.init.normal_(layer.weight, generator=generator)
    return layer

def none(input_shape, n_outputs, generator):
    return "a network"

def huge(input_shape, n_outputs, generator):
    return torch.empty(10**15)

def others(n_outputs):
    return None

word = 3
"""

CLASSES = """
from torch import nn

class Net(nn.Linear):
    pass

def build(input_shape, n_outputs, generator):
    return Net(input_shape[0], n_outputs)
"""

LOADS = """
import pickle, tangent.estimators, torch
made = pickle.load(open("made.pickle", "rb"))
print(*map(repr, made(torch.ones(1, 5))[0].tolist()))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(OWN)
    (tmp_path / "beside_own_net.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("own_net", None)


@pytest.mark.parametrize("place", ["own_net", "own_net.py", "./own_net.py", "{folder}/own_net.py"])
def test_files_and_modules_are_found_and_called_alike(folder, place):
    model = f"{place.format(folder=folder)}:build"
    made = own_network(model, source(model))((5,), 3, torch.Generator().manual_seed(2))
    expected = torch.empty(3, 5)
    nn.init.normal_(expected, generator=torch.Generator().manual_seed(2))
    assert torch.equal(made.weight, expected)


def test_a_network_is_known_by_the_content_of_its_file(folder):
    before = source("own_net.py:build")
    assert source("own_net:build") == before
    (folder / "own_net.py").write_text(OWN + "# edited")
    after = source("own_net.py:build")
    assert after != before
    own_network("own_net.py:build", after)
    with pytest.raises(NetworkNameError, match="its file has changed since it was named"):
        own_network("own_net.py:build", before)


def test_an_edited_file_is_imported_again(folder):
    first = own_network("own_net.py:build")((5,), 3, None)
    (folder / "own_net.py").write_text(OWN.replace("input_shape[0], n_", "input_shape[0], 2 * n_"))
    assert first.out_features == 3
    assert own_network("own_net.py:build")((5,), 3, None).out_features == 6


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere.py:build", r"model 'nowhere\.py:build' cannot be imported: there is no file"),
        ("nowhere_at_all:build", "cannot be imported: there is no module 'nowhere_at_all'"),
        ("nowhere.at.all:build", "cannot be imported: No module named 'nowhere'"),
        ("own_net.py:missing", "has no function 'missing'; it is called with .input_shape, n_out"),
        ("own_net:word", "has no function 'word'"),
        ("own_net.py:others", r"is called with .*; its own signature is \(n_outputs\)"),
        ("own_net.py:", "give file.py:function or package.module:function"),
        ("broken.py:build", "cannot be imported: ZeroDivisionError"),
        ("sys:exit", "there is no module 'sys' in a file"),
        ("dangling.py:build", "there is no file"),
    ],
)
def test_what_cannot_be_used_is_named(folder, model, words):
    (folder / "broken.py").write_text("1 / 0")
    (folder / "dangling.py").symlink_to("gone.py")
    with pytest.raises(NetworkNameError, match=words):
        own_network(model, source(model))


def test_what_is_returned_has_to_be_a_network(folder):
    with pytest.raises(NetworkNameError, match=r"it must return a torch\.nn\.Module; got str"):
        own_network("own_net.py:none")((5,), 3, None)


def test_a_network_that_outgrows_memory_is_named(folder):
    words = r"model: the factory asked for [\d.,]+ GiB .*; make the network smaller"
    with pytest.raises(MemoryError, match=words):
        LazyClassifier("own_net.py:huge").fit([[0.0], [1.0]], [0, 1])


def test_a_network_of_a_file_can_be_unpickled_in_another_process(folder):
    (folder / "classes.py").write_text(CLASSES)
    x = torch.ones(1, 5)
    made = network("classes.py:build", (5,), 3, generator=torch.Generator().manual_seed(0))
    (folder / "made.pickle").write_bytes(pickle.dumps(made))
    shown = subprocess.run(
        [sys.executable, "-c", LOADS], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(tangent.__file__).parents[1])},
    )  # fmt: skip
    assert shown.stdout.split() == [repr(v) for v in made(x)[0].tolist()], shown.stderr
    (folder / "classes.py").write_text(CLASSES + "# edited")
    sys.modules.pop(type(made).__module__)
    with pytest.raises(ModuleNotFoundError, match=r"classes\.py, which is gone or has changed"):
        pickle.loads((folder / "made.pickle").read_bytes())

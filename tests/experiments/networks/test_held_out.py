"""The rate chosen on held-out images: the best trial's, no test image, and it goes on."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from experiments.command.registry import experiment
from experiments.networks import held_out
from experiments.usage import UsageError
from tangent.training import DivergenceError

fig3a = experiment("fig3a")
fig3b = experiment("fig3b")

_BEST = 0.2  # of the edge


class _Trial(ClassifierMixin, BaseEstimator):
    """A classifier whose score is known from its rate: best at ``_BEST`` times its edge of 2."""

    fitted: ClassVar[list] = []

    def __init__(self, lr="auto", epochs=5, checkpoint=None, check_lr=True, augment=True):
        self.lr = lr
        self.epochs = epochs
        self.checkpoint = checkpoint
        self.check_lr = check_lr
        self.augment = augment
        self.batch_size = 4

    def fit(self, X, y):
        self.fitted.append((self.lr, self.epochs, X.copy(), y.copy()))
        self.stability_edge_ = 2.0
        if self.lr != "auto" and self.lr > 0.9:
            raise DivergenceError("loss is inf")
        return self

    def score(self, X, y):
        self.fitted.append(("score", self.epochs, X.copy(), y.copy()))
        return 1 - abs(self.lr / 2 - _BEST)


@pytest.fixture
def data():
    X = np.arange(60, dtype=np.float32)[:, None]
    return X, np.repeat(np.arange(3), 20)


@pytest.fixture(autouse=True)
def _none_fitted():
    _Trial.fitted.clear()


def _chosen(data, fractions, **options):
    settings = {"images": 30, "epochs": 2, "seed": 0, "log": str, **options}
    return held_out.held_out_rate(_Trial(), *data, fractions=fractions, **settings)


def test_the_rate_of_the_best_held_out_score_is_taken(data):
    lr, trials = _chosen(data, (0.1, 0.2, 0.4, 0.8))
    assert lr == pytest.approx(_BEST * 2)
    assert trials["accuracy"] == pytest.approx([0.9, 1.0, 0.8, None])
    assert trials["lr"] == pytest.approx([0.2, 0.4, 0.8, 1.6])


def test_trials_train_on_a_part_and_are_scored_on_images_held_out(data):
    _chosen(data, (0.1, 0.2))
    trained = [entry for entry in _Trial.fitted if entry[0] not in ("auto", "score")]
    scored = [entry for entry in _Trial.fitted if entry[0] == "score"]
    assert {len(X) for _, _, X, _ in trained} == {30}
    assert {epochs for _, epochs, *_ in trained} == {2}
    for (_, _, X, _), (_, _, held, y_held) in zip(trained, scored, strict=True):
        assert not np.intersect1d(X, held).size
        assert np.bincount(y_held).tolist() == [2, 2, 2]


def test_of_equal_scores_the_smallest_rate_is_taken(data):
    lr, _ = _chosen(data, (0.3, 0.1))  # both 0.1 away from the best
    assert lr == pytest.approx(0.2)


def test_rates_that_all_diverge_are_an_error(data):
    with pytest.raises(ArithmeticError, match=r"every trial diverged, at 0\.5, 0\.8"):
        _chosen(data, (0.5, 0.8))


def test_an_interrupted_choice_goes_on_from_its_finished_trials(data, tmp_path):
    progress = tmp_path / "choice.ckpt"
    first = _chosen(data, (0.1, 0.2), progress=progress)
    _Trial.fitted.clear()
    assert _chosen(data, (0.1, 0.2), progress=progress) == first
    assert _Trial.fitted == []
    again, _ = _chosen(data, (0.1, 0.2, 0.25), progress=progress)
    assert [entry[0] for entry in _Trial.fitted] == [0.5, "score"]
    assert again == first[0]


def test_a_damaged_choice_is_named_and_starts_anew(data, tmp_path):
    progress, said = tmp_path / "choice.ckpt", []
    first = _chosen(data, (0.1, 0.2), progress=progress)
    content = bytearray(progress.read_bytes())
    content[-100] ^= 4
    progress.write_bytes(bytes(content))
    _Trial.fitted.clear()
    assert _chosen(data, (0.1, 0.2), progress=progress, log=said.append) == first
    assert _Trial.fitted
    assert any("choice.ckpt is damaged" in line and "start anew" in line for line in said)


def test_trials_of_other_images_are_not_taken_over(data, tmp_path):
    progress = tmp_path / "choice.ckpt"
    _chosen(data, (0.1,), progress=progress)
    X, y = data
    with pytest.raises(ValueError, match="belongs to another training"):
        _chosen((X + 1, y), (0.1,), progress=progress)


def test_the_settings_of_trials_enter_the_run_only_where_they_are_used():
    by_rule = fig3b.runs(fig3b.PRESETS["full"])
    assert all(run["trial_epochs"] == 2 for run in by_rule)
    assert all("trial_epochs" not in run for run in fig3b.runs(fig3b.PRESETS["laptop"]))
    assert all(run["rate_fractions"] for run in fig3a.runs(fig3a.PRESETS["full"]))
    assert all("rate_fractions" not in run for run in fig3a.runs(fig3a.PRESETS["laptop"]))


_NONE = ["vgg11:", "vgg11:0:1", "vgg11:1:-1", "vgg11:a:1", "vgg11:1:2:3", "designed_cnn:slow"]


@pytest.mark.parametrize("text", _NONE)
def test_a_network_that_is_not_one_is_named(text):
    settings = dataclasses.replace(fig3b.PRESETS["full"], networks=(text,))
    with pytest.raises(UsageError, match=f"NETWORK:WIDTH:ALPHA.*{text}"):
        fig3b.runs(settings)


def test_rows_of_networks_are_named_by_their_scale():
    settings = dataclasses.replace(
        fig3b.PRESETS["full"], networks=("vgg11:0.5:1", "resnet18:2:1e7", "vgg11:1:inf")
    )
    runs = fig3b.runs(settings)
    assert [run["method"] for run in runs] == ["vgg11", "resnet18-lazy", "vgg11-linear"]
    assert [run["width"] for run in runs] == [0.5, 2, 1]

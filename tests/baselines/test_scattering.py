"""Scattering features."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines import scattering
from baselines.rototranslation import RotoTranslation
from baselines.scattering import RotoTranslationScattering, ScatteringFeatures

ROOT = Path(__file__).parents[2]


@parametrize_with_checks(
    [
        ScatteringFeatures(1, L=2),
        ScatteringFeatures(1, L=2, backend="kymatio"),
        RotoTranslationScattering(2, L=2, octaves=1),
    ],
    expected_failed_checks=lambda estimator: (
        {}
        if estimator.get_params().get("backend") == "kymatio"
        else dict.fromkeys(
            ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
            "float32 products round a row otherwise in a block of another size or at another "
            "place, by 1e-7 of the largest coefficient; logarithms of small ones show it",
        )
    ),
)
def test_scattering_features_follow_the_estimator_contract(estimator, check):
    check(estimator)


def rows(n, shape=(3, 16, 16), seed=0):
    return np.random.default_rng(seed).random((n, *shape), dtype=np.float32).reshape(n, -1)


@pytest.mark.parametrize("backend", ["torch", "kymatio"])
def test_plain_coefficients_are_those_of_kymatio(backend):
    x = rows(3)
    model = ScatteringFeatures(
        2, L=4, log=None, standardize=False, backend=backend, image_shape=(3, 16, 16)
    )
    oracle = ScatteringTorch2D(2, (16, 16), L=4)(torch.from_numpy(x).view(3, 3, 16, 16))
    np.testing.assert_allclose(
        model.fit_transform(x), oracle.flatten(1).numpy(), rtol=1e-4, atol=1e-6
    )


def test_flat_images_have_no_logarithm_below_that_of_the_floor():
    x = rows(40)
    x[:20] = np.linspace(0, 1, 20)[:, None]  # averages of their moduli round to both sides of zero
    model = ScatteringFeatures(2, L=4, standardize=False, image_shape=(3, 16, 16)).fit(x)
    made = model.transform(x).reshape(40, 3, -1, 4, 4)[:, :, 1:]
    floor = np.log(1e-3 * model.scale_[:, 1:].numpy())[..., None, None]
    assert (made >= floor - 1e-5).all()


@pytest.mark.parametrize("features", [ScatteringFeatures, RotoTranslationScattering])
def test_a_row_by_itself_has_the_same_features_up_to_rounding(features):
    x = rows(7)
    model = features(2, L=4, image_shape=(3, 16, 16)).fit(x)
    alone = np.concatenate([model.transform(x[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(alone, model.transform(x), atol=1e-4)


def test_roto_translation_features_are_those_of_the_enlarged_image():
    x = rows(2)
    model = RotoTranslationScattering(
        2, L=4, side=32, log=None, standardize=False, image_shape=(3, 16, 16)
    )
    large = torch.nn.functional.interpolate(
        torch.from_numpy(x).view(2, 3, 16, 16), (32, 32), mode="bicubic"
    )
    expected = RotoTranslation(2, (32, 32), 4)(large).flatten(1)
    np.testing.assert_allclose(model.fit_transform(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"L": 6}, "L must be a power of two; got 6"),
        ({"side": 0}, "side must be an integer above 0; got 0"),
        ({"L": 2}, r"octaves must be at most log2\(L\), L = 2; got 2"),
        ({"J": 7}, "J must be at most 6 for images of 64x64; got 7"),
    ],
)
def test_bad_arguments_of_the_roto_translation_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotoTranslationScattering(**{"image_shape": (3, 16, 16), **arguments}).fit(rows(2))


def test_standardized_paths_have_mean_zero_and_variance_one():
    model = ScatteringFeatures(2, L=4, batch_size=3, image_shape=(3, 16, 16))
    s = model.fit_transform(rows(8)).reshape(8, 3, -1, 16)
    np.testing.assert_allclose(s.mean(axis=(0, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(s.std(axis=(0, 3)), 1, atol=1e-3)


def test_fit_transform_is_fit_then_transform_and_does_not_depend_on_the_batch_size():
    x = rows(7)
    whole = ScatteringFeatures(2, L=2, image_shape=(3, 16, 16))
    parts = ScatteringFeatures(2, L=2, batch_size=2, image_shape=(3, 16, 16))
    expected = whole.fit_transform(x)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(parts.fit(x).transform(x), expected, atol=2e-4)


def test_a_clone_and_a_pickle_give_the_same_features():
    x = rows(4)
    model = ScatteringFeatures(1, L=2, colours="yuv", image_shape=(3, 16, 16))
    first = model.fit_transform(x)
    np.testing.assert_array_equal(clone(model).fit_transform(x), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(x), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"J": 5}, "J must be at most 4 for images of 16x16; got 5"),
        ({"J": 0}, "J must be an integer above 0; got 0"),
        ({"colours": "hsv"}, r"colours must be one of \('rgb', 'yuv'\); got 'hsv'"),
        ({"backend": "numpy"}, "backend must be one of .*; got 'numpy'"),
        ({"log": -1.0}, "log must be a number above 0 or None; got -1.0"),
        ({"colours": "yuv", "image_shape": (1, 16, 48)}, "needs three channels; image_shape has 1"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScatteringFeatures(**{"image_shape": (3, 16, 16), **arguments}).fit(rows(2))


def test_kymatio_is_imported_only_where_it_is_asked_for_and_says_nothing():
    program = (
        "import sys, warnings, numpy as np\n"
        "warnings.simplefilter('error')\n"
        "import baselines\n"
        "X = np.random.default_rng(0).random((3, 256), dtype='f4')\n"
        "assert not any(name.startswith('kymatio') for name in sys.modules)\n"
        "baselines.ScatteringFeatures(image_shape=(1, 16, 16), backend='kymatio').fit(X)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_what_kymatio_s_import_warns_of_is_not_shown(monkeypatch):
    def loud(module, purpose):
        warnings.warn("a use of torch is deprecated", FutureWarning, stacklevel=2)
        return SimpleNamespace(ScatteringTorch2D="the transform")

    monkeypatch.setattr(scattering, "optional", loud)
    assert scattering._kymatio() == "the transform"  # warnings are errors here

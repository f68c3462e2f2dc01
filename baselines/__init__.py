"""Non-learned competitors: random features, scattering, infinite-width kernels."""

from baselines.classifiers import (
    StreamedClassifier,
    gaussian_kernel_classifier,
    random_patch_classifier,
    scattering_classifier,
)
from baselines.gaussian import GaussianKernelHead
from baselines.linear import RidgeHead
from baselines.random_features import RandomPatchFeatures
from baselines.scattering import ScatteringFeatures

__all__ = [
    "GaussianKernelHead",
    "RandomPatchFeatures",
    "RidgeHead",
    "ScatteringFeatures",
    "StreamedClassifier",
    "gaussian_kernel_classifier",
    "random_patch_classifier",
    "scattering_classifier",
]

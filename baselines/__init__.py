"""Non-learned competitors: random features, scattering, infinite-width kernels."""

from baselines.classifiers import (
    StreamedClassifier,
    gaussian_kernel_classifier,
    random_patch_classifier,
    roto_translation_classifier,
    scattering_classifier,
)
from baselines.gaussian import GaussianKernelHead
from baselines.linear import RidgeHead
from baselines.random_features import RandomPatchFeatures
from baselines.scattering import RotoTranslationScattering, ScatteringFeatures
from baselines.selection import OrthogonalLeastSquaresSelector

__all__ = [
    "GaussianKernelHead",
    "OrthogonalLeastSquaresSelector",
    "RandomPatchFeatures",
    "RidgeHead",
    "RotoTranslationScattering",
    "ScatteringFeatures",
    "StreamedClassifier",
    "gaussian_kernel_classifier",
    "random_patch_classifier",
    "roto_translation_classifier",
    "scattering_classifier",
]

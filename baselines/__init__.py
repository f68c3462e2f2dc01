"""Non-learned competitors: random features, scattering, infinite-width kernels."""

from baselines.classifiers import (
    StreamedClassifier,
    arc_cosine_classifier,
    gaussian_kernel_classifier,
    random_patch_classifier,
    roto_translation_classifier,
    scattering_classifier,
)
from baselines.gaussian import GaussianKernelHead
from baselines.infinite import convolutional_kernels, mlp_kernels
from baselines.infinite_head import InfiniteWidthHead
from baselines.linear import RidgeHead
from baselines.random_features import ArcCosineFeatures, RandomPatchFeatures
from baselines.scattering import RotoTranslationScattering, ScatteringFeatures
from baselines.selected import SelectedFeatures
from baselines.selection import OrthogonalLeastSquaresSelector

__all__ = [
    "ArcCosineFeatures",
    "GaussianKernelHead",
    "InfiniteWidthHead",
    "OrthogonalLeastSquaresSelector",
    "RandomPatchFeatures",
    "RidgeHead",
    "RotoTranslationScattering",
    "ScatteringFeatures",
    "SelectedFeatures",
    "StreamedClassifier",
    "arc_cosine_classifier",
    "convolutional_kernels",
    "gaussian_kernel_classifier",
    "mlp_kernels",
    "random_patch_classifier",
    "roto_translation_classifier",
    "scattering_classifier",
]

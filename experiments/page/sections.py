"""What the page says of each experiment besides numbers: titles, names of figures, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pandas as pd


@dataclass(frozen=True)
class About:
    """An experiment on the page.

    Parameters
    ----------
    title : str
    what : str
        What is done, in a sentence or two.
    limits : str
        What its figures cannot show.
    figures : mapping of str to str
        Accessible names, by the names of the figures' files or patterns of them.
    limits_of_whole : str
        ``limits`` where the runs are of all training images, if that makes a difference.
    """

    title: str
    what: str
    limits: str
    figures: dict[str, str] = field(default_factory=dict)
    limits_of_whole: str = ""

    def name_of(self, stem: str) -> str | None:
        """The accessible name of a figure, None where it has none."""
        return next((name for key, name in self.figures.items() if fnmatchcase(stem, key)), None)

    def cannot_show(self, results: pd.DataFrame) -> str:
        """What the figures of these runs cannot show."""
        whole = "n_train" in results and results["n_train"].isna().all()
        return self.limits_of_whole if whole and self.limits_of_whole else self.limits


# In the order of the page.
SECTIONS: dict[str, About] = {
    "fig3b": About(
        "Figure 3(b): standard, lazy and linearized networks beside fixed representations",
        "The same images for every method: networks at α = 1, lazy (large α) and linearized "
        "(α = ∞), random features, scattering and kernels.",
        "Networks on a part of the images cannot test the paper's order of methods, nor that lazy "
        "networks do not overfit; all of ours are many times narrower than the paper's, and the "
        "images were encoded again where their name says JPEG.",
        {
            "fig3b": "Test accuracy of every method as bars; as marks its training accuracy and, "
            "where the paper has the method, the published numbers",
            "fig3b-flow": "Accuracy of the linearized networks along the exact gradient flow, "
            "where SGD ended marked",
            "fig3b-widening": "Accuracy of networks against their width",
            "fig3b-steps": "Accuracy of linearized networks along the steps of conjugate "
            "gradients, and where training ends",
            "fig3b-fixed": "Test accuracy of the fixed representations on all images as bars",
        },
        "What networks as wide as the paper's, trained for longer or from other seeds would reach: "
        "a standard error is that of the test images. The images were encoded again where their "
        "name says JPEG.",
    ),
    "fig3a": About(
        "Figure 3(a): accuracy against the scale α",
        "VGG-11 trained at scales from 1 to ∞, everything else equal: as α grows the network "
        "becomes its linearization.",
        "A part of the images and a narrow network; the range over a few seeds is no confidence "
        "interval. Where a rate is a fraction of the stability edge, other rates might rank "
        "otherwise.",
        {
            "fig3a": "Training and test accuracy and the share of stable ReLUs against α",
            "fig3a-rates": "Training loss and accuracy against the learning rate, the published "
            "rate and the stability edge marked",
        },
        "A narrow network; where there is one seed, nothing of what other seeds would give, and "
        "the range over a few is no confidence interval.",
    ),
    "precision": About(
        "Single precision: subtraction against difference propagation",
        "The same SGD three ways: two networks subtracted in float64 (the oracle), subtracted in "
        "float32, and by difference propagation in float32.",
        "Small networks, few images, rates below the stability edge: that rounding ruins "
        "subtraction here does not say at which α it ruins the published code's runs.",
        {
            "precision": "Error of the predictions, weights that move and final loss against α, "
            "by subtraction and by difference propagation"
        },
    ),
    "open-question": About(
        "The open question: can a linearized convolutional network compete?",
        "A is frozen whitened patches and one linearized convolution, solved exactly; B adds two "
        "dense branches. Beside them stand the same frozen patches in a Gaussian kernel.",
        "Small parts of the images; ridges and widths are chosen by leave-one-out, which makes its "
        "own accuracies slightly optimistic; the first layer is frozen and unsupervised.",
        {
            "accuracy": "Test accuracy of A, B and the fixed representations against the number "
            "of training images",
            "steps": "Test accuracy at each step from the linearized VGG-11 to A and B",
        },
    ),
    "fig1": About(
        "Figure 1: two-layer students in and out of the lazy regime",
        "A two-layer ReLU student of a teacher, at scales τ of its initial weights.",
        "Gaussian inputs and a small teacher; the animation and panels (a, b) are one draw.",
        {
            "fig1ab": "Paths of the units during training, at a small and a large tau",
            "fig1c": "Test loss at the end of training and at its best against tau, with the "
            "linearized network's as lines",
        },
    ),
    "fig2": About(
        "Figure 2: width and scale of two-layer students",
        "(a) test loss against the number of units under two scalings; (b) population loss of "
        "SGD against τ.",
        "Hatched scales were still falling at the end: their loss is not the limit's. Narrow "
        "students stop at local minima in some repetitions, which widens their spread.",
        {
            "fig2a": "Test loss against the number of units with scalings 1/sqrt(m) and 1/m",
            "fig2b": "Population loss against tau, the tangent model's minimum as a line, scales "
            "still falling hatched",
        },
    ),
    "theory": About(
        "The theorems, measured",
        "Every claim of Theorems 2.2 to 2.5, Proposition A.1 and the law of κ, held against runs "
        "by tolerances fixed beforehand.",
        "Small smooth models at a finite list of α; a bound that holds may be loose (its column "
        "says by how much); the theorems do not cover ReLU, whose rows stand beside.",
        {
            "theory-finite-horizon": "Theorem 2.2: distances to the initial weights and to the "
            "linearized path against α",
            "theory-held-out": "Proposition A.1: distance of both models on other inputs against α",
            "theory-square-loss": "Theorem 2.3: measured distance and its bound against α, for "
            "every K; ReLU beside it",
            "theory-over-parameterized": "Theorem 2.4: error against time beside its bound",
            "theory-under-parameterized": "Theorem 2.5: loss above its limit against time, and "
            "rates against α",
            "theory-kappa": "κ against the width for two scalings",
            "theory-not-necessary": "Footnote 3: κ and the distance to the linearized path against "
            "the curvature in a direction that training never takes",
            "theory-mean-field": "Population loss of two-layer networks against the width, with "
            "1/m and with 1/sqrt(m)",
            "theory-wide": "Wide networks: movement of the weights and of the kernel against the "
            "width",
        },
    ),
    "spectrum": About(
        "Appendix C: spectrum of the tangent kernel",
        "Eigenvalues of the tangent kernel at initialization, on images and on random pixels.",
        "One network a line, at initialization, on few images: the smallest eigenvalues are those "
        "of this sample.",
        {
            "spectrum": "Singular values of the differential at initialization, on images and on "
            "random pixels, in order"
        },
    ),
    "laziness": About(
        "Laziness of networks",
        "κ, curvature and short trainings at several α: from which scale a network is lazy.",
        "A few images and epochs; kinks of gates are left out of D²h and κ.",
        {
            "laziness-*": "Leading eigenvalues of the tangent kernel, distance from the "
            "linearization after a short training at every α, and what every gate kept"
        },
    ),
    "diagnostics": About(
        "Diagnostics of networks",
        "Conditioning, curvature and movement of networks at initialization.",
        "A few images and steps; kinks are left out of D²h and κ.",
    ),
    "baselines": About(
        "Representations without learning",
        "Random patches, scattering and kernels on the whole data set, the published numbers "
        "beside them.",
        "The images were encoded again where their name says JPEG, the published ones are "
        "lossless and come from more features.",
        {
            "baselines": "Test accuracy of the representations against features and against "
            "training images, published numbers marked"
        },
    ),
    "tabular": About(
        "Small tables: the tangent kernel's classifier beside scikit-learn's",
        "Tables that scikit-learn ships and made ones, cut to the same number of rows; the "
        "others tuned by cross validation, ours by leaving one out.",
        "Small tables, one seed of the folds; some of the tables were looked at while our defaults "
        "were settled, and the means without them are the fairer ones.",
        {"tabular": "Test accuracy of every method on every table"},
    ),
}

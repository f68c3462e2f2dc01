"""How lazy is a network on given data: the numbers of the criterion, and what training moves."""

from tangent.laziness.report import LazinessReport, laziness
from tangent.laziness.trainings import Trained

__all__ = ["LazinessReport", "Trained", "laziness"]

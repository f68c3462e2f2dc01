"""Data sets as arrays, with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

__all__ = ["DATASETS", "ImageData", "load_dataset"]

DATASETS = ("digits", "cifar10")

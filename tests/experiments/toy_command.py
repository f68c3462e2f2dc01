"""``python -m experiments`` with the toy in the table, as a process and its helpers run it.

Helpers import the main module anew, so what is replaced here is replaced in them too: without
torch, which takes seconds to import and which the toy does not use. With TOY_TORCH in the
environment the helpers have it all the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys

import numpy as np

from experiments.command import cli, registry
from experiments.runs import machine

registry.EXPERIMENTS["toy"] = "tests.experiments.toy"
if "TOY_TORCH" not in os.environ or multiprocessing.parent_process() is None:
    machine.settled = lambda threads: contextlib.nullcontext()
    machine.resolve_device = lambda device: "cpu"
    machine.with_seed = np.random.seed

if __name__ == "__main__":
    sys.exit(cli.run(sys.argv[1:]))

"""Blocks of work on several threads."""

from __future__ import annotations

import pytest
import threadpoolctl
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.transform import FastScattering
from tangent.machine.threads import over_ranges


@given(total=st.integers(0, 40), block=st.integers(1, 9), threads=st.integers(1, 4))
def test_ranges_of_whole_blocks_cover_everything_once(total, block, threads):
    torch.set_num_threads(threads)
    seen = []
    over_ranges(lambda start, stop: seen.append((start, stop)), total, block)
    covered = sorted(i for start, stop in seen for i in range(start, stop))
    assert covered == list(range(total))
    assert all(start % block == 0 for start, _ in seen)
    assert len(seen) <= max(threads, 1)
    assert torch.get_num_threads() == threads


def test_threads_do_not_change_the_coefficients():
    images = torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    transform = FastScattering(2, (8, 8), 2, planes=3)
    alone = transform(images)
    torch.set_num_threads(3)
    torch.testing.assert_close(transform(images), alone, rtol=0, atol=1e-6)


def test_an_error_in_a_thread_is_raised_and_the_number_of_threads_restored():
    torch.set_num_threads(2)

    def fail(start, stop):
        raise RuntimeError(f"at {start}")

    with pytest.raises(RuntimeError, match="at"):
        over_ranges(fail, 4, 1)
    assert torch.get_num_threads() == 2


def blas_threads():
    libraries = threadpoolctl.threadpool_info()
    return [library["num_threads"] for library in libraries if library["user_api"] == "blas"]


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_has_one_thread_within_and_what_it_had_after(threads):
    torch.set_num_threads(threads)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before, within = blas_threads(), []
        over_ranges(lambda start, stop: within.extend(blas_threads()), 4, 1)
        assert set(within) <= {1}
        assert blas_threads() == before

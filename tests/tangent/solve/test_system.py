"""Memory that is free: the machine's, a control group's, and what is made of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tangent import tangent_kernel
from tangent.kernel.engine.blocks import default_budget
from tangent.solve import system as _system

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 100 GiB available, and the files of its control groups."""
    monkeypatch.setattr(
        _system.psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GIB)
    )
    monkeypatch.setattr(_system, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(_system, "_MEMBERSHIP", tmp_path / "self")

    def group(membership, **files):
        (tmp_path / "self").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))

    return group


def version_2(folder, limit, used, files):
    return {
        f"{folder}memory_DOT_max": limit,
        f"{folder}memory_DOT_current": used,
        f"{folder}memory_DOT_stat": f"anon 5\ninactive_file {files}\nactive_file {files}\n",
    }


def version_1(folder, limit, used, files):
    stat = f"cache 5\ninactive_file 0\ntotal_inactive_file {files}\ntotal_active_file {files}\n"
    return {
        f"memory__{folder}memory_DOT_limit_in_bytes": limit,
        f"memory__{folder}memory_DOT_usage_in_bytes": used,
        f"memory__{folder}memory_DOT_stat": stat,
    }


def test_without_groups_it_is_what_the_machine_has(machine):
    assert _system.available_bytes() == 100 * GIB


@pytest.mark.parametrize(
    ("membership", "files"),
    [("0::/job\n", version_2), ("9:cpu:/x\n4:memory:/job\n0::/\n", version_1)],
)
def test_a_groups_limit_counts_and_files_in_memory_are_free(machine, membership, files):
    machine(membership, **files("job__", 8 * GIB, 7 * GIB, GIB))
    assert _system.available_bytes() == 3 * GIB  # 8 less 7, of which 2 are files


@pytest.mark.parametrize("kind", [version_2, version_1])
def test_the_tightest_group_on_the_way_counts(machine, kind):
    membership = "0::/a/b/c\n" if kind is version_2 else "4:memory:/a/b/c\n"
    machine(membership, **kind("a__b__", 20 * GIB, 4 * GIB, 0), **kind("a__", 50 * GIB, GIB, 0))
    assert _system.available_bytes() == 16 * GIB


@pytest.mark.parametrize("kind", [version_2, version_1])
def test_in_a_container_the_group_is_the_mount_itself(machine, kind):
    membership = "0::/../host\n" if kind is version_2 else "4:memory:/docker/1234\n"
    machine(membership, **kind("", 6 * GIB, 2 * GIB, 0))
    assert _system.available_bytes() == 4 * GIB


@pytest.mark.parametrize(
    ("limit", "used"), [("max", 5), (2**63 - 4096, 5), ("nonsense", 5), (8, "")]
)
def test_a_group_without_a_limit_is_none(machine, limit, used):
    machine("0::/job\n", **version_2("job__", limit, used, 0))
    assert _system.available_bytes() == 100 * GIB


def test_a_group_that_is_over_its_limit_has_nothing_left(machine):
    machine("0::/job\n", **version_2("job__", 5 * GIB, 6 * GIB, 0))
    assert _system.available_bytes() == 0


def test_the_budget_of_blocks_is_half_of_what_is_available(machine):
    machine("0::/job\n", **version_2("job__", 8 * GIB, 6 * GIB, 0))
    assert default_budget(torch.device("cpu")) == GIB


@pytest.mark.parametrize(
    ("outputs", "fits", "instead"),
    [("full", 316, "take outputs='trace' or 'pseudo'"), ("trace", 3162, "take stored_tangent_ker")],
)
def test_a_kernel_larger_than_the_machine_is_refused_before_it_is_allocated(
    monkeypatch, outputs, fits, instead
):
    monkeypatch.setattr("tangent.kernel.engine.blocks.available_bytes", lambda: 4e7)
    model, x = nn.Linear(2, 10), torch.zeros(20_000, 2)
    with pytest.raises(MemoryError, match=rf"{fits} by {fits} inputs would fit; {instead}"):
        tangent_kernel(model, x, outputs=outputs)
    with pytest.raises(MemoryError, match=r"solver='cg' of the estimators\), which never forms it"):
        tangent_kernel(model, x, x, outputs=outputs, per_layer=True)


def test_the_blocks_keep_to_what_the_result_leaves(monkeypatch):
    model, x = nn.Sequential(nn.Linear(300, 30), nn.ReLU(), nn.Linear(30, 3)), torch.randn(100, 300)
    whole = tangent_kernel(model, x)
    monkeypatch.setattr("tangent.kernel.engine.blocks.available_bytes", lambda: 2.0**29)
    torch.testing.assert_close(tangent_kernel(model, x), whole)

"""Claims: one process a run, and what dead processes leave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from experiments import claims
from experiments.files import OutputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "a.json"


def leave_claim(path, **content):
    path.parent.mkdir(exist_ok=True)
    claim = path.with_suffix(".claim")
    claim.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **content}))
    return claim


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_is_held_by_one(path):
    with claims.claimed(path) as first:
        assert first
        assert claims.owner(path) == f"process {os.getpid()} on {socket.gethostname()}"
        with claims.claimed(path) as second:
            assert not second
        assert claims.owner(path) is not None  # the second did not take it away
    assert claims.owner(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_claim_is_given_back_after_an_error(path):
    with pytest.raises(KeyboardInterrupt), claims.claimed(path):
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


def test_a_claim_left_by_an_interrupt_is_released_and_others_are_not(path):
    leave_claim(path)
    claims.release(path)
    assert list(path.parent.iterdir()) == []
    claim = leave_claim(path, host="elsewhere")
    claims.release(path)
    assert claim.exists()


def test_many_threads_get_one_claim(path):
    path.parent.mkdir()
    barrier, held = threading.Barrier(8), []

    def take():
        barrier.wait()
        with claims.claimed(path) as mine:
            held.append(mine)
            barrier.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False] * 7 + [True]


def test_the_claim_of_a_dead_process_is_taken_over(path):
    leave_claim(path, pid=dead_pid())
    with claims.claimed(path) as mine:
        assert mine


def test_a_pid_used_again_is_not_the_owner(path):
    leave_claim(path, started="1")  # our pid, but of a process that started at boot
    if claims._started(os.getpid()) is None:
        pytest.skip("this system does not say when a process started")
    with claims.claimed(path) as mine:
        assert mine


def test_a_claim_of_another_host_counts_until_its_owner_is_silent(path):
    claim = leave_claim(path, host="elsewhere", pid=1)
    assert claims.owner(path) == "process 1 on elsewhere"
    with claims.claimed(path) as mine:
        assert not mine
    old = claim.stat().st_mtime - 2 * claims._STALE
    os.utime(claim, (old, old))
    with claims.claimed(path) as mine:
        assert mine


def test_the_owner_of_a_claim_is_heard(path, monkeypatch):
    monkeypatch.setattr(claims, "_BEAT", 0.02)
    with claims.claimed(path):
        claim = path.with_suffix(".claim")
        os.utime(claim, (0, 0))
        touched = threading.Event()
        for _ in range(200):
            if claim.stat().st_mtime > 0:
                break
            touched.wait(0.02)
        assert claim.stat().st_mtime > 0


def test_a_claim_cut_short_is_one_only_while_it_is_fresh(path):
    claim = leave_claim(path)
    claim.write_text('{"pid"')
    assert claims.owner(path) == "a starting process"
    old = claim.stat().st_mtime - 2 * claims._BEAT
    os.utime(claim, (old, old))
    assert claims.owner(path) is None


def test_a_claim_that_cannot_be_made_is_a_clear_error(path):
    # A file where the folder should be: root, as whom the suite may run, writes anywhere else.
    path.parent.write_text("")
    with pytest.raises(OutputError, match="cannot write"), claims.claimed(path):
        pass


def test_half_written_files_of_dead_processes_are_swept(tmp_path):
    host = socket.gethostname()
    gone = tmp_path / f".a.json.{host}.{dead_pid()}.part"
    mine = tmp_path / f".a.json.{host}.{os.getpid()}.part"
    other = tmp_path / ".a.json.elsewhere.7.part"
    for file in (gone, mine, other):
        file.touch()
    claims.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])

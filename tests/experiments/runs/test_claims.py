"""Claims: one process a run, and what dead processes leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.files import OutputError, part_name, sweep
from experiments.runs import claims

ROOT = Path(__file__).parents[3]
# Takes the claim of a path, says so, and keeps it until its input ends.
_HOLDER = """
import sys
from pathlib import Path
from experiments.runs import claims
with claims.claimed(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "a.json"


@pytest.fixture
def holder(path):
    """``holder()`` starts a process that holds the claim, and returns when it does."""
    started = []

    def _holder():
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield _holder
    for process in started:
        process.kill()
        process.communicate()


def test_a_claim_is_held_by_one(path):
    with claims.claimed(path) as first:
        assert first
        assert claims.held(path)
        with claims.claimed(path) as second:
            assert not second
        assert claims.held(path)  # the second did not take it away
    assert not claims.held(path)
    assert list(path.parent.iterdir()) == []


def test_a_claim_is_given_back_after_an_error(path):
    with pytest.raises(KeyboardInterrupt), claims.claimed(path):
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []


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


def test_many_threads_that_take_turns_are_never_two_at_a_time(path):
    inside, most, taken = [], [], []

    def work():
        for _ in range(20):
            with claims.claimed(path) as mine:
                if mine:
                    inside.append(1)
                    most.append(len(inside))
                    taken.append(1)
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken
    assert set(most) == {1}


def test_another_process_holds_its_claim(path, holder):
    process = holder()
    assert claims.held(path)
    with claims.claimed(path) as mine:
        assert not mine
    process.communicate("")  # it ends as it should
    assert not claims.held(path)
    assert list(path.parent.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over_also_before_it_is_buried(path, holder):
    process = holder()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until we wait
    claims.wait_for(path)
    with claims.claimed(path) as mine:
        assert mine


def test_waiting_ends_with_the_process_that_is_waited_for(path, holder, monkeypatch):
    process = holder()
    looks = []
    taken = claims._taken

    def look(claim, wait):
        looks.append(wait)
        process.kill()
        return taken(claim, wait=wait)

    monkeypatch.setattr(claims, "_taken", look)
    claims.wait_for(path)
    assert looks == [True]


def test_the_files_of_claims_that_nobody_holds_are_swept(path, holder):
    holder()
    left = path.with_name("b.claim")
    left.write_text('{"pid": 1, "host": "elsewhere"}')  # as earlier versions wrote them
    claims.sweep(path.parent)
    assert [p.name for p in path.parent.iterdir()] == ["a.claim"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_what_is_no_claim_is_named_and_left_alone(path, kind):
    path.parent.mkdir()
    claim, other = path.with_suffix(".claim"), path.with_name("precious")
    other.write_text("kept")
    if kind == "folder":
        claim.mkdir()
    else:
        claim.symlink_to(other if kind == "link" else path.with_name("nowhere"))
    message = r"a\.claim is in the way of a claim, and no file: remove it"
    with pytest.raises(OutputError, match=message), claims.claimed(path):
        pass
    claims.sweep(path.parent)
    assert other.read_text() == "kept"
    assert not path.with_name("nowhere").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[" * 10**5, b'{"pid": 1}'])
def test_the_content_of_a_claims_file_means_nothing(path, content):
    path.parent.mkdir()
    path.with_suffix(".claim").write_bytes(content)
    assert not claims.held(path)
    with claims.claimed(path) as mine:
        assert mine


def test_a_claim_that_cannot_be_made_is_a_clear_error(path):
    # A file where the folder should be: root, as whom the suite may run, writes anywhere else.
    path.parent.write_text("")
    with pytest.raises(OutputError, match="cannot write"), claims.claimed(path):
        pass


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def old(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


def test_half_written_files_and_folders_of_dead_processes_are_swept(tmp_path):
    host, me = socket.gethostname(), os.getpid()
    kept = [tmp_path / part_name("a.json"), tmp_path / ".a.json.elsewhere.7.part", tmp_path / "b"]
    gone = [
        tmp_path / f".a.json.{host}.{dead_pid()}.part",
        old_part := tmp_path / ".c.json.elsewhere.7.part",
    ]
    for file in (*kept, *gone):
        file.touch()
    old(old_part)
    for folder in (f".cifar.x.{host}.{dead_pid()}.part", ".part-abc"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train_images.npy").touch()
        old(tmp_path / folder)
    (tmp_path / f".cifar.y.{host}.{me}.part").mkdir()
    sweep(tmp_path)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {p.name for p in kept} | {f".cifar.y.{host}.{me}.part"}


def test_a_zombie_and_a_pid_used_again_count_as_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    host = socket.gethostname()
    (tmp_path / f".a.{host}.{process.pid}.part").touch()
    old_one = tmp_path / f".b.{host}.{os.getpid()}.part"  # from before this process began
    old_one.touch()
    old(old_one)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    process.wait()

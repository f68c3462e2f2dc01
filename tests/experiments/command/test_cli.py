"""The command line: what it answers, what it writes, and its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.command import cli, registry
from experiments.runs.results import read_result


def sigint_as_usual():
    # A suite started in the background ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def runs_in(out: Path) -> dict[str, dict]:
    return {p.name: read_result(p)["metrics"] for p in (out / "toy" / "runs").glob("*.json")}


def test_help_names_every_experiment_and_verb(capsys):
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in (*registry.available(), "list", "plot", "table", "report", "all"):
        assert f"  {name} " in text


def test_help_of_an_experiment_names_its_presets(toy, capsys):
    with pytest.raises(SystemExit):
        cli.run(["toy", "--help"])
    text = capsys.readouterr().out
    assert "experiments toy [PRESET]" in text
    assert "Presets: smoke, laptop." in text


def test_no_verb_is_wrong_usage(capsys):
    assert cli.run([]) == 2
    assert "usage: experiments VERB" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["fig3b", "--help"], ["list"], ["all", "--help"]])
def test_help_answers_without_torch(words):
    program = (
        "import sys\nfrom experiments.command import cli\n"
        f"try:\n    status = cli.run({words!r})\nexcept SystemExit as end:\n    status = end.code\n"
        "assert not status, status\n"
        "heavy = {'torch', 'sklearn', 'matplotlib', 'pandas', 'scipy', 'kymatio'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_list_has_a_line_an_experiment(capsys, toy):
    assert cli.run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "toy\tsquares of numbers" in lines
    assert len(lines) == len(registry.available())


def test_every_experiment_has_the_parts_of_one():
    for name in registry.available():
        module = registry.experiment(name)
        assert isinstance(module.SUMMARY, str)
        assert {"smoke", "laptop"} <= module.PRESETS.keys()
        for settings in module.PRESETS.values():
            assert isinstance(settings, module.Settings)
        for part in ("runs", "compute", "draw"):
            assert callable(getattr(module, part))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fig3"], "unknown experiment or verb 'fig3': did you mean 'fig3b'"),
        (["plots", "toy"], "unknown experiment or verb 'plots': did you mean 'plot'"),
        (["plot", "tooy"], "unknown experiment 'tooy': did you mean 'toy'"),
        (["plot"], "plot which experiment?"),
        (["toy", "--preset", "smok"], "unknown preset 'smok': did you mean 'smoke'"),
        (["toy", "--preset=papr"], "unknown preset 'papr'"),
        (["toy", "--dataset", "digits"], "toy takes no --dataset"),
        (["toy", "--jobs", "0"], "--jobs must be at least 1; got 0"),
        (["toy", "--executor", "dask"], "--scheduler ADDRESS goes with --executor dask"),
        (["toy", "--scheduler", "tcp://a:1"], "--scheduler ADDRESS goes with --executor dask"),
        (["toy", "--job-parameters", "a=1"], "--job-parameters go with --executor submitit"),
        (["toy", "--threads", "-1"], "--threads must be at least 1; got -1"),
        (["toy", "--numbers"], "--numbers needs one value at least"),
        (["fig3b", "--dataset", "cifar"], "unknown dataset 'cifar': did you mean 'cifar10'"),
        (["fig3b", "--dataset=dijits"], "unknown dataset 'dijits': did you mean 'digits'"),
        (["fig3b", "--methods", "vgg12"], "unknown method 'vgg12': did you mean 'vgg11'"),
        (["fig3b", "--dataset", "cifar10"], "give --data-dir"),
        (["fig3b", "--dataset", "cifar10", "--data-dir", "/missing"], "/missing does not exist"),
        (["table", "toy"], "no results of toy in"),
        (["report"], "no results in"),
    ],
)
def test_wrong_usage_is_explained_and_ends_with_2(toy, tmp_path, capsys, words, message):
    out = ["--out", str(tmp_path / "out")] if words != ["plot"] else []
    assert cli.run([*words, *out]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("words", [["--numberz", "1"], ["--numbers", "one"], ["--dtype", "half"]])
def test_wrong_options_end_with_2(toy, tmp_path, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(["toy", *words, "--out", str(tmp_path)])
    assert end.value.code == 2


def test_data_options_belong_to_experiments_with_data_only(toy, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(["toy", "--data-dir", str(tmp_path)])
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        cli.run(["fig3b", "--help"])
    assert end.value.code == 0
    assert "--data-dir" in capsys.readouterr().out


def test_a_command_writes_results_tables_and_where_they_are(toy, tmp_path, capsys):
    assert cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "| number | square |" in said.out
    assert str(tmp_path / "toy" / "smoke" / "toy.csv") in said.out
    assert "3 runs computed, 0 were finished before" in said.err
    assert len(runs_in(tmp_path)) == 3


def test_what_is_printed_during_a_run_is_no_result(toy, tmp_path, capsys):
    assert cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "a word about this run" not in said.out
    assert said.err.count("a word about this run") == 3


def test_a_result_records_what_made_it_and_no_folder_of_the_machine(toy, tmp_path):
    words = ["toy", "--preset=smoke", "--numbers", "1", f"--out={tmp_path}", "--threads", "1"]
    assert cli.run(words) == 0
    (path,) = (tmp_path / "toy" / "runs").glob("*.json")
    document = read_result(path)
    expected = "python -m experiments toy --preset=smoke --numbers 1 --out=DIR --threads 1"
    assert document["command"] == expected
    assert document["threads"] == 1
    assert document["device"] == "cpu"
    assert document["versions"]["torch"].startswith("2.")
    assert document["cpu"]
    assert str(tmp_path) not in path.read_text()


def test_the_second_time_nothing_runs(toy, tmp_path, capsys):
    words = ["toy", "--out", str(tmp_path), "--preset", "smoke"]
    cli.run(words)
    first = runs_in(tmp_path)
    capsys.readouterr()
    assert cli.run(words) == 0
    assert "0 runs computed, 3 were finished before" in capsys.readouterr().err
    assert runs_in(tmp_path) == first
    assert cli.run([*words, "--force"]) == 0
    assert "3 runs computed" in capsys.readouterr().err


def test_dry_run_says_what_would_run_and_writes_nothing(toy, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.run(["toy", "--dry-run", "--preset", "smoke", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("would run\t") == 3
    assert not out.exists()
    cli.run(["toy", "--numbers", "1", "--preset", "smoke", "--out", str(out)])
    capsys.readouterr()
    cli.run(["toy", "--dry-run", "--preset", "smoke", "--out", str(out)])
    text = capsys.readouterr().out
    assert (text.count("would run\t"), text.count("finished\t")) == (2, 1)


def test_dry_run_says_what_a_run_took_and_so_will_take(toy, tmp_path, capsys, monkeypatch):
    from experiments.command import study as command
    from experiments.runs.costs import Cost

    known = Cost("toy", {"number": 2, "seconds": 0.0}, 90.0, 3 * 2**29, 1)
    monkeypatch.setattr(command, "kept_costs", lambda: [known])
    cli.run(["toy", "smoke", "--dry-run", "--threads", "2", "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("\tabout 1.5 minutes of CPU time, at least 1.5 GiB (1 scaled from other settings)")  # fmt: skip  # noqa: E501
    assert lines[1].endswith("\tabout 1.5 minutes of CPU time, 1.5 GiB")
    assert lines[3].startswith("3 of 3 runs would be computed: about 4.5 minutes of CPU time")
    assert lines[4] == "on 2 threads 2.2 minutes at best"


def test_a_preset_may_stand_first(toy, tmp_path, capsys):
    assert cli.run(["toy", "smoke", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("would run\t") == 3
    assert cli.run(["toy", "smok", "--out", str(tmp_path / "out")]) == 2
    assert "unknown preset 'smok': did you mean 'smoke'" in capsys.readouterr().err


def test_changed_settings_share_runs_but_not_tables(toy, tmp_path, capsys):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    cli.run(["toy", "--preset", "smoke", "--numbers", "1", "5", "--out", str(tmp_path)])
    assert "1 runs computed, 1 were finished" in capsys.readouterr().err
    folders = [p.name for p in (tmp_path / "toy").iterdir() if p.name != "runs"]
    assert sorted(len(name) for name in folders) == [len("smoke"), len("smoke-123456")]


def test_plot_and_table_need_results_only(toy, tmp_path, capsys, monkeypatch):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    table = tmp_path / "toy" / "smoke" / "toy.md"
    text = table.read_text()
    table.unlink()
    monkeypatch.setattr(toy, "compute", None)  # not to be called
    capsys.readouterr()
    assert cli.run(["plot", "toy", "--out", str(tmp_path)]) == 0
    assert table.read_text() == text
    capsys.readouterr()
    assert cli.run(["table", "toy", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(text)


def test_plot_of_a_result_cut_short_names_it(toy, tmp_path, capsys):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    path = sorted((tmp_path / "toy" / "runs").glob("*.json"))[0]
    path.write_text(path.read_text()[:100])
    capsys.readouterr()
    assert cli.run(["plot", "toy", "--out", str(tmp_path)]) == 1
    assert path.name in capsys.readouterr().err


def test_a_failed_run_ends_with_1_and_the_others_are_drawn(toy, tmp_path, capsys):
    words = ["toy", "--preset", "smoke", "--numbers", "1", "13", "--out", str(tmp_path)]
    assert cli.run(words) == 1
    said = capsys.readouterr()
    assert "thirteen does not work" in said.err
    assert "1 runs failed; the same command tries them again" in said.err
    assert "| 1      | 1      |" in said.out


@pytest.mark.parametrize(("numbers", "status"), [(["19"], 2), (["1", "19"], 1), (["13", "19"], 1)])
def test_a_request_that_a_run_finds_wrong_is_wrong_usage_where_nothing_was_computed(
    toy, tmp_path, capsys, numbers, status
):
    words = ["toy", "--preset", "smoke", "--numbers", *numbers, "--out", str(tmp_path)]
    assert cli.run(words) == status
    assert "weights do not fit" in capsys.readouterr().err


def test_a_diverged_run_is_no_failure(toy, tmp_path, capsys):
    words = ["toy", "--preset", "smoke", "--numbers", "1", "14", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    assert "diverged: loss is inf at step 3" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_found_before_any_work(
    toy, tmp_path, capsys, monkeypatch
):
    # The suite may run as root, who writes in read-only folders: a file stands in the way, and
    # then the write itself is made to fail as the kernel would.
    monkeypatch.setattr(toy, "runs", None)  # not to be called
    (tmp_path / "out").write_text("")
    assert cli.run(["toy", "--out", str(tmp_path / "out")]) == 1
    assert "cannot write" in capsys.readouterr().err

    def read_only(self, data):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_bytes", read_only)
    assert cli.run(["toy", "--out", str(tmp_path / "other")]) == 1
    said = capsys.readouterr().err
    assert "Read-only file system; make room or give another folder with --out" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes in read-only folders")
def test_a_read_only_folder_is_an_error(toy, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert cli.run(["toy", "--out", str(tmp_path / "out")]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_an_unknown_device_is_an_error_before_any_work(toy, tmp_path, capsys):
    assert cli.run(["toy", "--device", "cud", "--out", str(tmp_path)]) == 2
    assert "--device 'cud' cannot be used" in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error(start):
    process = start("fig3b", "--help")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()


def test_report_reads_results_and_writes_one_file(toy, tmp_path, capsys):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    before = set(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli.run(["report", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html")]
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "report.html"}
    assert ">9</td>" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("verb", "status"), [("table", 0), ("plot", 1)])
def test_a_table_that_cannot_be_written_is_shown_all_the_same(toy, tmp_path, capsys, verb, status):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    in_the_way = tmp_path / "toy" / "smoke" / "toy.csv"  # root writes in read-only folders
    in_the_way.unlink()
    in_the_way.mkdir()
    capsys.readouterr()
    assert cli.run([verb, "toy", "--out", str(tmp_path)]) == status
    said = capsys.readouterr()
    assert "| 3      | 9      |" in said.out
    assert f"cannot write {in_the_way}" in said.err
    assert "not written there: toy.csv, toy.md" in said.err


def test_a_report_that_cannot_be_written_is_named_and_ends_with_1(toy, tmp_path, capsys):
    cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)])
    (tmp_path / "report.html").mkdir()
    capsys.readouterr()
    assert cli.run(["report", "--out", str(tmp_path)]) == 1
    assert f"cannot write {tmp_path / 'report.html'}" in capsys.readouterr().err


def test_a_command_whose_tables_cannot_be_written_shows_them_and_ends_with_1(toy, tmp_path, capsys):
    (tmp_path / "toy" / "smoke" / "toy.md").mkdir(parents=True)
    assert cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "| 3      | 9      |" in said.out
    assert "3 runs computed" in said.err


def test_all_runs_every_experiment(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "EXPERIMENTS", {"toy": "tests.experiments.toy"})
    assert cli.run(["all", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert len(runs_in(tmp_path)) == 3


def test_all_goes_on_after_an_experiment_without_its_data(toy, tmp_path, capsys, monkeypatch):
    table = {"fig3b": "experiments.fig3b", "toy": "tests.experiments.toy"}
    monkeypatch.setattr(registry, "EXPERIMENTS", table)
    monkeypatch.setitem(toy.PRESETS, "paper", toy.Settings((2,)))
    assert cli.run(["all", "--preset", "paper", "--out", str(tmp_path)]) == 1
    assert "fig3b: cifar10 does not come with this package" in capsys.readouterr().err
    assert len(runs_in(tmp_path)) == 1


_HANG = 800  # seconds: what takes longer hangs; nothing here depends on how fast the machine is


def wait_until(true, process) -> None:
    """Return when ``true()`` holds; the suite's timeout ends what never does."""
    while not true():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def finished_runs(out: Path) -> int:
    return len(list((out / "toy" / "runs").glob("*.json")))


def begun_runs(counter: Path) -> int:
    return len(counter.read_text().split()) if counter.exists() else 0


def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(start, tmp_path):
    words = ["toy", "--numbers", 1, 2, 3, 4, 5, 6, "--out", tmp_path]
    process = start(*words, preexec_fn=sigint_as_usual, env={"TOY_HOLD_FROM": "3"})
    wait_until(lambda: finished_runs(tmp_path) == 2, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=_HANG)
    assert process.returncode == 130
    assert len(runs_in(tmp_path)) == 2
    assert "interrupted: 2 of 6 runs are finished" in said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    names = {p.suffix for p in (tmp_path / "toy" / "runs").iterdir()}
    assert names == {".json", ".npz"}


def test_a_killed_command_goes_on_to_the_same_numbers(start, tmp_path):
    def words(out):
        return ["toy", "--numbers", 1, 2, 3, 4, "--out", out]

    killed = start(*words(tmp_path / "killed"), env={"TOY_HOLD_FROM": "2"})
    straight = start(*words(tmp_path / "straight"))
    wait_until(lambda: finished_runs(tmp_path / "killed") == 1, killed)
    killed.kill()
    killed.wait()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed/toy/runs").glob("*.json")}
    again = start(*words(tmp_path / "killed"))
    _, said = again.communicate(timeout=_HANG)
    assert again.returncode == 0, said
    assert straight.wait(timeout=_HANG) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert runs_in(tmp_path / "killed") == runs_in(tmp_path / "straight")
    assert not list((tmp_path / "killed").rglob("*.part"))
    assert not list((tmp_path / "killed").rglob("*.claim"))


@pytest.mark.parametrize("forced", [False, True])
def test_jobs_share_the_runs(start, tmp_path, forced):
    counter = tmp_path / "computed"
    words = ["toy", "--numbers", 1, 2, 3, 4, "--out", tmp_path / "out"]
    environment = {"TOY_COUNTER": str(counter), "TOY_TOGETHER": "2"}
    if forced:  # all of them are there, and each is computed once more
        first = start(*words)
        assert first.wait(timeout=_HANG) == 0
        words.append("--force")
    else:
        environment["TOY_TORCH"] = "1"  # a helper that settles torch, as all do outside the suite
    process = start(*words, "--jobs", 2, env=environment)
    _, said = process.communicate(timeout=_HANG)
    assert process.returncode == 0, said
    assert sorted(counter.read_text().split()) == ["1", "2", "3", "4"]
    assert len(runs_in(tmp_path / "out")) == 4


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
def test_the_run_of_a_killed_worker_is_done_again_and_the_others_are_not(start, tmp_path):
    counter = tmp_path / "computed"
    words = ["toy", "--numbers", 16, 17, 1, 2, "--out", tmp_path / "out", "--jobs", 2]
    process = start(*words, env={"TOY_COUNTER": str(counter)})
    _, said = process.communicate(timeout=_HANG)
    assert process.returncode == 1, said
    begun = counter.read_text().split()
    assert [begun.count(word) for word in ("16", "17", "1", "2")] == [2, 3, 1, 1]
    assert [begun.count(word) for word in ("dead-16", "dead-17")] == [1, 3]
    assert "its worker was killed or crashed); it is run again" in said
    assert "3 runs computed, 0 were finished before" in said
    assert said.count("its worker was lost each time") == 1  # number 17, after three times
    assert len(runs_in(tmp_path / "out")) == 3
    assert not list(tmp_path.rglob("*.claim"))


def test_what_workers_did_is_reported_and_a_failing_run_is_computed_once(start, tmp_path):
    counter = tmp_path / "computed"
    numbers = [1, 13, 14, 2, 3, 4]
    words = ["toy", "--numbers", *numbers, "--out", tmp_path / "out"]
    environment = {"TOY_COUNTER": str(counter), "TOY_TOGETHER": "3"}
    process = start(*words, "--jobs", 3, env=environment)
    _, said = process.communicate(timeout=_HANG)
    assert process.returncode == 1, said
    assert sorted(map(int, counter.read_text().split())) == sorted(numbers)
    assert "5 runs computed, 0 were finished before" in said
    assert "1 runs failed; the same command tries them again" in said
    assert (
        said.count("RuntimeError: thirteen does not work") == 2
    )  # where it happens, and at the end
    assert sum(line.startswith("diverged: /") for line in said.splitlines()) == 1


def test_ctrl_c_ends_the_workers_too(start, tmp_path):
    counter = tmp_path / "computed"
    words = ["toy", "--numbers", *range(1, 9), "--out", tmp_path, "--jobs", 2]
    environment = {"TOY_HOLD_FROM": "3", "TOY_COUNTER": str(counter)}
    process = start(*words, preexec_fn=sigint_as_usual, env=environment)
    wait_until(lambda: begun_runs(counter) == 4, process)  # both are at work
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=_HANG)  # ends only when no worker holds its stderr
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert len(runs_in(tmp_path)) == 2


def test_workers_end_with_a_killed_command(start, tmp_path):
    counter = tmp_path / "computed"
    words = ["toy", "--numbers", *range(1, 9), "--out", tmp_path, "--jobs", 2]
    process = start(*words, env={"TOY_HOLD_FROM": "3", "TOY_COUNTER": str(counter)})
    wait_until(lambda: begun_runs(counter) == 4, process)
    process.kill()
    process.communicate(timeout=_HANG)  # ends only when no worker holds its stderr
    assert len(runs_in(tmp_path)) == 2


def test_two_commands_on_one_folder_share_the_runs(start, tmp_path):
    numbers = list(range(1, 9))
    counter = tmp_path / "computed"
    words = ["toy", "--numbers", *numbers, "--seconds", 0.2, "--out", tmp_path / "out"]
    both = [start(*words, env={"TOY_COUNTER": str(counter)}) for _ in range(2)]
    said = [process.communicate(timeout=_HANG) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(map(int, counter.read_text().split())) == numbers
    assert said[0][0] == said[1][0]  # both show the whole table
    assert len(runs_in(tmp_path / "out")) == 8


def test_an_experiment_needs_no_option_at_all():
    assert cli._peek([], "preset") is None
    assert cli._peek(["--preset", "smoke"], "preset") == "smoke"
    assert cli._peek(["--preset=smoke"], "preset") == "smoke"

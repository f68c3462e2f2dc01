"""Shell completion: what the scripts offer, asked of the shells themselves where they are."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from experiments.command import cli, registry
from experiments.command.completion import SHELLS, script

ASK = """
source /dev/stdin
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_experiments
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words: str) -> set[str]:
    """What bash completes the last word to."""
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", *words],
        input=script("bash", ["list", "completion"]),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on this machine")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fig3"], {"fig3a", "fig3b"}),
        (["fig3b", "fu"], {"full"}),
        (["fig3b", "--preset", "sm"], {"smoke"}),
        (["fig3b", "full", "--data"], {"--dataset", "--data-dir"}),
        (["fig3b", "--dataset", ""], {"digits", "cifar10"}),
        (["fig3b", "--loss", "sq"], {"square"}),
        (["fig1", "--dry"], {"--dry-run"}),
        (["completion", ""], set(SHELLS)),
        (["plot", "spec"], {"spectrum"}),
    ],
)
def test_bash_completes(words, expected):
    assert offered("experiments", *words) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_experiment_and_the_shell_reads_it(shell, capsys):
    assert cli.run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in registry.available())
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=text, text=True, check=True)


def test_another_shell_is_wrong_usage(capsys):
    assert cli.run(["completion", "bsh"]) == 2
    assert "unknown shell 'bsh': did you mean 'bash'" in capsys.readouterr().err
    assert cli.run(["completion"]) == 2

"""Completion in shells: each shell itself says what it would offer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.commands import environment

CASES = [
    ("acc", "accounts"),
    ("accounts s", "show sign-out"),
    ("registration o", "open"),
    ("--log-level d", "debug"),
    ("serve --registration c", "closed"),
    ("completion f", "fish"),
]
BASH = """
source "$1"
COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=$2; COMP_POINT=${#2}
$(complete -p happy-server-light | grep -o -- '-F [^ ]*' | cut -c4-)
echo "${COMPREPLY[@]}"
"""


def script(folder: Path, shell: str) -> str:
    """Return the file with the script that the program prints."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    printed = programs.run(["completion", shell], environment(folder))
    assert printed.returncode == 0, printed.stderr
    (folder / shell).write_text(printed.stdout)
    return str(folder / shell)


def test_bash_completes(tmp_path: Path) -> None:
    file = script(tmp_path, "bash")
    for typed, offered in CASES:
        shown = subprocess.run(
            ["bash", "-c", BASH, "bash", file, f"happy-server-light {typed}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (shown.stdout.strip(), shown.stderr) == (offered, ""), typed


def test_fish_completes(tmp_path: Path) -> None:
    file = script(tmp_path, "fish")
    for typed, offered in CASES:
        shown = subprocess.run(
            ["fish", "--no-config", "-c", f"source {file}; complete -C 'happy-server-light {typed}'"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert [line.split("\t")[0] for line in shown.stdout.splitlines()] == offered.split(), typed


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    file = script(tmp_path, "zsh")
    subprocess.run(["zsh", "-n", file], check=True, timeout=60)
    assert "#compdef happy-server-light" in Path(file).read_text()


def test_the_completion_library_is_not_imported_by_other_commands() -> None:
    program = "import sys; from happy_light import cli; cli.parser(); assert 'shtab' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

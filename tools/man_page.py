"""Write the manual page and the shell completions into packaging/, from the command line's parser (`make man`)."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from happy_light import __version__, cli, config
from happy_light.commands.command import Command

FOLDER: Final = Path(__file__).parent.parent / "packaging"
COMPLETIONS: Final = {
    "bash": "completions/happy-server-light.bash",
    "zsh": "completions/_happy-server-light",
    "fish": "completions/happy-server-light.fish",
}
_FILES: Final = (
    ("~/.happy/server-light/", "the data folder: database, files, attachments, master secret"),
    ("happy-server-light.toml", "settings, in the data folder or in the user's configuration folder"),
)
_STATUS: Final = (
    ("0", "done"),
    ("1", "a problem was found, or the question was declined"),
    ("2", "the command cannot work as it was called; one sentence on standard error says why"),
)


def manual() -> str:
    """Return the manual page happy-server-light(1), in the language of man(7)."""
    parser = cli.parser()
    lines = [
        f'.TH HAPPY\\-SERVER\\-LIGHT 1 "" "happy\\-server\\-light {__version__}" "User Commands"',
        ".SH NAME", "happy\\-server\\-light \\- a Happy server in one process",
        ".SH SYNOPSIS", ".B happy\\-server\\-light", "[command] [\\-\\-flag value ...]",
        ".SH DESCRIPTION", _escaped(str(parser.description)),
        ".SH COMMANDS", *_commands(cli.commands(), cli.PROGRAM),
        ".SH SETTINGS", _escaped(str(parser.epilog)), *_settings(),
        ".SH FILES", *_terms(_FILES),
        ".SH EXIT STATUS", *_terms(_STATUS),
        ".SH SEE ALSO", "https://github.com/happy\\-server\\-light/happy\\-server\\-light",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def completion(shell: str) -> str:
    """Return the script that completes commands in the shell, as `completion` prints it."""
    command = [sys.executable, "-m", "happy_light", "completion", shell]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=FOLDER.parent).stdout


def _commands(commands: Sequence[Command], above: str) -> Iterator[str]:
    """Yield the section of each command and of those below it, with the arguments that are no settings."""
    for command in commands:
        name = f"{above} {command.name}"
        parser = argparse.ArgumentParser(prog=name, add_help=False)
        command.add(parser)
        arguments = [(_argument(action), action.help or "") for action in parser._actions]
        yield f".SS {_escaped(' '.join([name, *(_short(action) for action in parser._actions)]))}"
        yield _escaped(command.help[0].upper() + command.help[1:] + ".")
        yield from _terms(arguments)
        yield from _commands(command.subcommands, name)


def _argument(action: argparse.Action) -> str:
    """Return an argument as its description begins: `--keep N`, `ACCOUNT`."""
    names = ", ".join(action.option_strings)
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return f"{names} {value}".strip()


def _short(action: argparse.Action) -> str:
    """Return an argument as a synopsis has it: in brackets if it can be left out."""
    text = _argument(action)
    return f"[{text}]" if (action.option_strings and not action.required) or action.nargs == "?" else text


def _settings() -> Iterator[str]:
    """Yield the settings by group: flag, variable, default."""
    group = ""
    for row in config.SETTINGS:
        if row.group != group:
            group = row.group
            yield f".SS {_escaped(group)}"
        name = row.env[0] if row.secret else f"{row.option} {row.metavar}, {row.env[0]}"
        yield from _terms([(name, f"{row.help} ({row.shown})")])


def _terms(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield tagged paragraphs."""
    for term, text in terms:
        yield from (".TP", f".B {_escaped(term)}", _escaped(text))


def _escaped(text: str) -> str:
    """Return the text so that no character of it is a request or is replaced by another one."""
    text = " ".join(text.replace("%%", "%").replace("\\", "\\e").replace("-", "\\-").replace("…", "...").split())
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> None:
    """Write the files."""
    (FOLDER / "completions").mkdir(parents=True, exist_ok=True)
    (FOLDER / "happy-server-light.1").write_text(manual(), "utf-8")
    for shell, name in COMPLETIONS.items():
        (FOLDER / name).write_text(completion(shell), "utf-8")


if __name__ == "__main__":
    main()

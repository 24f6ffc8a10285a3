"""How commands speak: JSON for scripts, text for people, and a progress bar for a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import msgspec

_WIDTH = 30  # characters of a bar
_EVERY = 0.1  # s between two looks of it


def show(arguments: argparse.Namespace, value: Any, text: str) -> None:
    """Prints `value` as JSON if --json is given, else `text`."""
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    else:
        print(text)


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def day(ms: int) -> str:
    """A time for people, where they are."""
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, one below the other."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


class Bar:
    """How far long work is, on stderr and only if that is a terminal: `with Bar("packing") as bar: bar.tell(1, 9)`."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._visible = sys.stderr.isatty()
        self._last = 0.0

    def __enter__(self) -> Bar:
        return self

    def tell(self, done: int, of: int) -> None:
        """Draws it, if the last time is a moment ago."""
        now = time.monotonic()
        if not self._visible or now - self._last < _EVERY:
            return
        self._last = now
        full = min(1.0, done / of) if of else 0.0
        bar = "#" * int(full * _WIDTH)
        sys.stderr.write(f"\r{self._doing} [{bar:<{_WIDTH}}] {full:4.0%}")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last:
            sys.stderr.write("\r\x1b[K")

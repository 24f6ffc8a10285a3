"""What an import did, or would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many (0: not known)."""


@dataclass
class TableReport:
    """A table of the source: how many rows were found and taken, and how many were left out for which reason."""

    shown: str
    """What an operator calls the rows."""
    found: int = 0
    taken: int = 0
    left: Counter[str] = field(default_factory=Counter)


@dataclass
class Report:
    """What an import did."""

    tables: dict[str, TableReport] = field(default_factory=dict)
    """By the name of the table in the source."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the operator."""
    renumbered: dict[str, int] = field(default_factory=dict)
    """How many messages of a session got another seq, by the session's id."""
    files: dict[str, int] = field(default_factory=dict)
    """How many files of which kind."""
    checks: dict[str, int] = field(default_factory=dict)
    """How many things of which kind were compared at the end."""

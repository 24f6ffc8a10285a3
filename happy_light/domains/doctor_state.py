"""What the last run of doctor in this process found."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec


class DoctorState:
    """The time of the last run (ms, 0 for none), and its findings."""

    def __init__(self) -> None:
        self.at = 0
        self.findings: Sequence[msgspec.Struct] = ()
        self.running = threading.Lock()
        """Held by the thread that runs doctor, also after whoever asked for it has gone."""

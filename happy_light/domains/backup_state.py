"""What is known of backups that this process makes: when the last one was, and how it ended."""

from __future__ import annotations

from happy_light.wire import Outgoing


class BackupResult(Outgoing):
    """A backup: when it ended (ms), its archive, or the sentence why there is none."""

    at: int
    archive: str | None
    error: str | None

    @property
    def ok(self) -> bool:
        """Whether there is an archive."""
        return self.error is None


class BackupState:
    """The last backup, and the last one that succeeded; None before the first."""

    def __init__(self) -> None:
        self.last: BackupResult | None = None
        self.last_success: BackupResult | None = None
        self.running = False
        """Whether one that the operator asked for is being made."""

    def record(self, result: BackupResult) -> None:
        """Make this the last backup."""
        self.last = result
        if result.ok:
            self.last_success = result

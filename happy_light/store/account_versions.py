"""A number for each account that grows with every write for it, so that an unchanged list need not be read again.

Kept in memory, and only of this process: after a restart every number is new.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Final

ACCOUNTS_MAX: Final = 100_000  # accounts whose numbers are kept; beyond them the one written first is dropped


class AccountVersions:
    """The versions of all accounts. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._prefix = secrets.token_urlsafe(6)
        self._last = 0
        self._versions: dict[str, int] = {}
        self._others = 0
        """The version of every account that has no number of its own: that of the latest change of any of them."""

    def of(self, account_id: str) -> str:
        """Return the version of everything that belongs to an account. Read it before what it shall describe."""
        return f"{self._prefix}.{self._versions.get(account_id, self._others)}"

    def changed(self, account_ids: Collection[str]) -> None:
        """Give these accounts a new version; with none named, all accounts."""
        self._last += 1
        if not account_ids:
            self._versions.clear()
            self._others = self._last
        for account_id in account_ids:
            self._versions.pop(account_id, None)
            self._versions[account_id] = self._last
        while len(self._versions) > ACCOUNTS_MAX:
            self._others = max(self._others, self._versions.pop(next(iter(self._versions))))

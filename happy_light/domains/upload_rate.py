"""The limits on requests to upload attachments and pictures (docs/protocol.md, sections 3 and 19)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from happy_light.errors import ApiError, ErrorResponse

UPLOADS_MAX: Final = 60  # upload requests of one account within WINDOW
WINDOW: Final = 60  # s
ACCOUNTS_MAX: Final = 100_000  # accounts that are counted; beyond them the oldest count is dropped

SharedCount = Callable[[str, str, int], Awaitable[int | None]]
"""`shared(account_id, name, window)`: add one to a count of all processes and return it; None if that is not possible.

The count begins anew `window` s after its first one."""


class UploadRate:
    """The number of upload requests of each account, in a window that starts with its first one.

    `name` tells this limit from the others; `too_many` is what a request beyond it is refused with.
    """

    def __init__(self, name: str, too_many: ErrorResponse) -> None:
        self._name = name
        self._too_many = too_many
        self.shared: SharedCount | None = None
        """Counts in all processes of a server of several; this process alone counts while that is not possible."""
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by the start of the window

    async def count(self, account_id: str) -> None:
        """Count one upload request. Raises ApiError `too_many` beyond the limit."""
        count = None if self.shared is None else await self.shared(account_id, self._name, WINDOW)
        if (self._count_here(account_id) if count is None else count) > UPLOADS_MAX:
            raise ApiError(self._too_many)

    def _count_here(self, account_id: str) -> int:
        now = time.monotonic()
        while self._counts:
            oldest, (started, _) = next(iter(self._counts.items()))
            if now - started < WINDOW and len(self._counts) <= ACCOUNTS_MAX:
                break
            del self._counts[oldest]
        started, count = self._counts.get(account_id, (now, 0))
        self._counts[account_id] = (started, count + 1)
        return count + 1

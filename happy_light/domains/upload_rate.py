"""The limit on upload requests of attachments (docs/protocol.md, section 3)."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from happy_light.errors import TOO_MANY_UPLOADS, ApiError

UPLOADS_MAX: Final = 60  # upload requests of one account within WINDOW
WINDOW: Final = 60.0  # s
ACCOUNTS_MAX: Final = 100_000  # accounts that are counted; beyond them the oldest count is dropped


class UploadRate:
    """The number of upload requests of each account, in a window that starts with its first one."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by the start of the window

    def count(self, account_id: str) -> None:
        """Count one upload request. Raises ApiError TOO_MANY_UPLOADS beyond the limit."""
        now = time.monotonic()
        while self._counts:
            oldest, (started, _) = next(iter(self._counts.items()))
            if now - started < WINDOW and len(self._counts) <= ACCOUNTS_MAX:
                break
            del self._counts[oldest]
        started, count = self._counts.get(account_id, (now, 0))
        if count >= UPLOADS_MAX:
            raise ApiError(TOO_MANY_UPLOADS)
        self._counts[account_id] = (started, count + 1)

"""The limits on requests to upload attachments and pictures (docs/protocol.md, sections 3 and 19)."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from happy_light.errors import ApiError, ErrorResponse

UPLOADS_MAX: Final = 60  # upload requests of one account within WINDOW
WINDOW: Final = 60.0  # s
ACCOUNTS_MAX: Final = 100_000  # accounts that are counted; beyond them the oldest count is dropped


class UploadRate:
    """The number of upload requests of each account, in a window that starts with its first one."""

    def __init__(self, too_many: ErrorResponse) -> None:
        self.too_many = too_many
        """What a request beyond the limit is refused with."""
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by the start of the window

    def count(self, account_id: str) -> None:
        """Count one upload request. Raises ApiError `too_many` beyond the limit."""
        now = time.monotonic()
        while self._counts:
            oldest, (started, _) = next(iter(self._counts.items()))
            if now - started < WINDOW and len(self._counts) <= ACCOUNTS_MAX:
                break
            del self._counts[oldest]
        started, count = self._counts.get(account_id, (now, 0))
        if count >= UPLOADS_MAX:
            raise ApiError(self.too_many)
        self._counts[account_id] = (started, count + 1)

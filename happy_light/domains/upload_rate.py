"""How many uploads of attachments an account may request in a minute (docs/protocol.md section 3)."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from happy_light.errors import TOO_MANY_UPLOADS, ApiError

UPLOADS_MAX: Final = 60  # that an account may request in WINDOW
WINDOW: Final = 60.0  # s
ACCOUNTS_MAX: Final = 100_000  # whose requests are counted; past that the longest counted is forgotten


class UploadRate:
    """Counts the uploads that each account requested in its current minute."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by the start of the minute

    def count(self, account_id: str) -> None:
        """Count one more. Raises ApiError (429) if the account had as many as it may."""
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

"""Whether the server can work: its database is there, intact and writable, and the disk has room.

Without some other parts, such as a bucket, it can work, if not for everything: these are listed when they are away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from happy_light.errors import ServiceUnavailable
from happy_light.store import Database, Transaction

KEPT: Final = 2.0  # s for which a result is used again, since anybody may ask
_TIMEOUT: Final = 4.0  # s; monitors give up after about 5


class HealthCheck:
    """Checks of one server; several questions at once share one.

    `parts`: the other parts by their names; each raises ServiceUnavailable while it is away.
    """

    def __init__(self, database: Database, parts: dict[str, Callable[[], Awaitable[None]]]) -> None:
        self._database = database
        self.parts = parts
        self._lock = asyncio.Lock()
        self._problem = ""
        self._missing: list[str] = []
        self._valid_until = 0.0  # s of the monotonic clock

    async def problem(self) -> str:
        """Return why the server cannot work, in a few words; "" if it can. The result may be KEPT s old."""
        async with self._lock:
            if time.monotonic() >= self._valid_until:
                self._problem, self._missing = await asyncio.gather(self._check(), self._check_parts())
                self._valid_until = time.monotonic() + KEPT
            return self._problem

    @property
    def missing(self) -> list[str]:
        """Return the names of the other parts that were away at the last check."""
        return self._missing

    async def _check_parts(self) -> list[str]:
        return [name for name, check in self.parts.items() if not await _works(check)]

    async def _check(self) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._database.check()
                await self._database.write_for((), _write, int(time.time()))
        except ServiceUnavailable as error:
            return str(error)
        except TimeoutError:
            return "The database does not answer in time"
        return ""


async def _works(check: Callable[[], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(_TIMEOUT):
            await check()
    except (ServiceUnavailable, TimeoutError):
        return False
    return True


def _write(tx: Transaction, now: int) -> None:
    """Write a row for real: a full or read-only disk shows in nothing else."""
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('health_checked_at', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (str(now),),
    )

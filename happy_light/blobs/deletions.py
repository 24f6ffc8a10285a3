"""Deletions that run in the background, one after the other, each until it succeeds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from happy_light.blobs.stored import BucketError

log = logging.getLogger(__name__)

WAITING_MAX: Final = 10_000
_PAUSE_FIRST, _PAUSE_MAX = 1.0, 60.0  # s until a deletion is tried again; each pause is twice the one before


class Deletions:
    """Keys, or prefixes that end with a slash, that `delete` is called with.

    What is not deleted when the process ends stays, and `prune` finds it.
    """

    def __init__(self, delete: Callable[[str], Awaitable[None]]) -> None:
        self._delete = delete
        self._waiting: dict[str, None] = {}  # a set that keeps the order
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, name: str) -> None:
        """Delete what is stored under `name` soon; return at once."""
        if len(self._waiting) >= WAITING_MAX:
            log.error("%d deletions wait already; %s stays until `prune` deletes it", WAITING_MAX, name)
            return
        self._waiting[name] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self, seconds: float) -> None:
        """Wait for `seconds` at most until everything is deleted, and stop."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
            self._task.cancel()
        if self._waiting:
            log.warning("files of %d deletions stay until `prune` deletes them", len(self._waiting))

    async def _run(self) -> None:
        pause = _PAUSE_FIRST
        while self._waiting:
            name = next(iter(self._waiting))
            try:
                await self._delete(name)
            except BucketError as error:
                log.warning("%s; tried again in %d s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSE_MAX)
            else:
                pause = _PAUSE_FIRST
                del self._waiting[name]

"""Progress of long work, as newline-delimited JSON.

An endpoint that takes long answers 200 with `application/x-ndjson`: any number of `{"done": n, "total": m}`, and last
either `{"result": …}` or `{"error": sentence}`. Lines that the reader is too slow for are left out. The work is
cancelled when the reader disconnects; the same request continues it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from starlette.responses import StreamingResponse

from happy_light import json_codec
from happy_light.blobs import BucketError
from happy_light.errors import ApiError, OperatorError, ServiceUnavailable
from happy_light.wire import Outgoing

log = logging.getLogger(__name__)

NDJSON: Final = "application/x-ndjson"
STREAM_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Headers of answers that arrive line by line; the second keeps nginx from collecting the lines."""

ProgressCallback = Callable[[int, int], None]
"""(done, total): how far long work is. It returns at once; what it raises ends the work."""


class Progress(Outgoing):
    """How far the work is; `total` is 0 while it is not known."""

    done: int
    total: int


class Failed(Outgoing):
    """Why the work ended without a result."""

    error: str


def ignore_progress(done: int, total: int) -> None:
    """Do nothing with it."""


def part_of(progress: ProgressCallback, index: int, parts: int) -> ProgressCallback:
    """Return the callback of one of several equal parts of a work: together they go once from 0 to the total."""

    def report(done: int, total: int) -> None:
        progress(1000 * index + (1000 * done // total if total else 0), 1000 * parts)

    return report


def stream(work: Callable[[ProgressCallback], Coroutine[Any, Any, Any]]) -> StreamingResponse:
    """Return a response that runs `work(progress)` and reports it line by line."""
    return StreamingResponse(_lines(work), media_type=NDJSON, headers=STREAM_HEADERS)


async def _lines(work: Callable[[ProgressCallback], Coroutine[Any, Any, Any]]) -> AsyncIterator[bytes]:
    newest: Progress | None = None
    changed = asyncio.Event()

    def progress(done: int, total: int) -> None:
        nonlocal newest
        newest = Progress(done, total)
        changed.set()

    task = asyncio.create_task(work(progress))
    task.add_done_callback(lambda _: changed.set())
    try:
        while not task.done():
            await changed.wait()
            changed.clear()
            if newest is not None:
                line, newest = newest, None
                yield _line(line)
        yield _line(_outcome(task))
    finally:
        task.cancel()


def _outcome(task: asyncio.Task[Any]) -> Any:
    """Return the last line of work that has ended."""
    try:
        return {"result": task.result()}
    except (ApiError, BucketError, OperatorError, ServiceUnavailable) as error:
        return Failed(str(error))
    except Exception:
        log.exception("work for an operator failed")
        return Failed("An unexpected error occurred; the server's log has the details")


def _line(value: Any) -> bytes:
    return json_codec.encode(value) + b"\n"

"""Events of clients: each runs its handler at once, in the order of arrival, and gets its ack."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from types import CoroutineType
from typing import Any

import msgspec

from happy_light import json_codec
from happy_light.auth.authentication import still_exists
from happy_light.clients import CallFailed, Client
from happy_light.context import ServerContext
from happy_light.errors import INVALID_TOKEN, ApiError, BadRequest, ServiceUnavailable
from happy_light.http.limits import Limits
from happy_light.live.acks import ok_error
from happy_light.live.cork import Cork

log = logging.getLogger(__name__)

Handler = Callable[[ServerContext, Client, Any], Awaitable[Any] | Any]
"""Takes the context, the client that sent the event and its data; returns the ack, or an awaitable of it."""


_EXPECTED = (
    ApiError, msgspec.ValidationError, UnicodeError, RecursionError, BadRequest, ServiceUnavailable, CallFailed,
)  # fmt: skip


class EventHandler(msgspec.Struct, frozen=True):
    """A row of a domain's table of socket events."""

    handler: Handler
    refuse: Callable[[str], Any]
    """Makes a negative ack of a text (acks.py)."""
    data: type[Any] | None = None
    """The struct that the data must fit; None passes it on as it came."""
    ack: Any = None
    """What the ack carries, for the documentation."""
    like: type[Any] | None = None
    """What the data should look like where `data` is None, for the documentation."""
    limited: bool = True
    """Whether what it waits for counts against the writes that a client may have in flight.

    False for what waits for another client instead of the disk, and has a limit of its own.
    """


class Dispatcher:
    """The handlers of all events, and the tasks that run for them."""

    def __init__(self, context: ServerContext, events: Mapping[str, EventHandler], cork: Cork) -> None:
        self.events = dict(events)
        self._context = context
        self._cork = cork
        self._tasks: set[asyncio.Task[Any]] = set()

    def dispatch(self, client: Client, event: str, data: Any, id: int | None, size: int = 0) -> None:
        """Run the handler of an event; its ack is sent whatever happens. `id` is None if no ack is wanted.

        `size` is that of the packet in bytes, which count as the account's until the handler has finished.
        """
        handler = self.events.get(event)
        if handler is None:
            self._context.counters.event("unknown")
            client.acknowledge(id, ok_error(f"Unknown event {event[:100]}"))
            return
        self._context.counters.event(event)
        try:
            if handler.data is not None:
                data = json_codec.convert(data, handler.data)
            result = handler.handler(self._context, client, data)
        except Exception as error:
            client.acknowledge(id, handler.refuse(error_text(event, error)))
            return
        if not isinstance(result, asyncio.Future):
            if not isinstance(result, CoroutineType):
                client.acknowledge(id, result)
                return
            result = self.spawn(result)
        if handler.limited:
            client.begin_write()
        held = size if size > Limits.BODY_FREE else 0
        if held:
            self._context.limits.hold_body(client.account_id, held)
        result.add_done_callback(partial(self._finished, client, handler, event, id, held))

    def _finished(
        self,
        client: Client,
        handler: EventHandler,
        event: str,
        id: int | None,
        held: int,
        result: asyncio.Future[Any],
    ) -> None:
        """Send the ack of a result that was waited for."""
        if handler.limited:
            client.end_write()
            self._cork.hold()  # writes that were committed together have their acks in the same step
        if held:
            self._context.limits.release_body(client.account_id, held)
        if result.cancelled():
            client.acknowledge(id, handler.refuse("Cancelled"))
            return
        error = result.exception()
        if error is None:
            client.acknowledge(id, result.result())
        elif is_expected(error):
            client.acknowledge(id, handler.refuse(error_text(event, error)))
        else:
            self.spawn(self._fail(client, handler, event, id, error))

    async def _fail(
        self, client: Client, handler: EventHandler, event: str, id: int | None, error: BaseException
    ) -> None:
        """Refuse what has failed without a known reason: its account may have been deleted meanwhile."""
        if await still_exists(self._context.database, client.account_id):
            text = error_text(event, error)
        else:
            text = INVALID_TOKEN.error
        client.acknowledge(id, handler.refuse(text))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine beside everything else, until it ends or the server stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Cancel the tasks that still run."""
        for task in list(self._tasks):
            task.cancel()


def is_expected(error: BaseException) -> bool:
    """Whether an error is a refusal, and no fault of the server."""
    return isinstance(error, _EXPECTED)


def error_text(event: str, error: BaseException) -> str:
    """Return what a client is told about an error; log it if it is a fault of the server."""
    if isinstance(error, ApiError):
        return error.response.error
    if isinstance(error, msgspec.ValidationError | UnicodeError | RecursionError):
        return "Invalid parameters"
    if isinstance(error, BadRequest | ServiceUnavailable | CallFailed):
        return str(error)
    log.error("event %s failed", event, exc_info=error)
    return "Internal error"


def collect(tables: Iterable[Mapping[str, EventHandler]]) -> dict[str, EventHandler]:
    """Return one table of all domains' events. Raises AssertionError for an event that two tables have."""
    events: dict[str, EventHandler] = {}
    for table in tables:
        twice = events.keys() & table.keys()
        assert not twice, f"{twice} handled twice"
        events.update(table)
    return events

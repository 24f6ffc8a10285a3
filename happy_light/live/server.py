"""Live: handshake, dispatch, acks, and the one place that sends to sockets.

python-socketio speaks the protocol (handshake, polling, packets); which sockets there are, what an
event means and who hears an update is ours (rooms.py, the domains, the bus).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec
from starlette.types import Scope

from happy_light import json_codec
from happy_light.auth import authentication
from happy_light.bus import Committed, Ephemeral
from happy_light.clients import Client, Kind
from happy_light.context import ServerContext
from happy_light.errors import ApiError, ServiceUnavailable
from happy_light.live import client as client_module
from happy_light.live import stack
from happy_light.live.acks import ok_error
from happy_light.live.client import Link, Packet

log = logging.getLogger(__name__)

PATH: Final = "/v1/updates"
CONNECT_TIMEOUT: Final = 20.0  # s that an engine connection may take to send CONNECT
CALLS_EVERY: Final = 0.5  # s between looks for calls that nobody answered in time

Reply = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class EventHandler:
    """A row of a domain's table of socket events.

    `handler(peer, data)` returns the ack's value or something to wait for; `data` is the struct that
    the payload must fit (None: as it came). `refuse(text)` makes the ack that says no.
    """

    handler: Callable[..., Any]
    refuse: Callable[[str], Any]
    data: type[Any] | None = None
    ack: Any = None
    """What the ack carries, for the documentation."""
    like: type[Any] | None = None
    """What the payload is meant to be like where `data` is None, for the documentation."""
    replies: bool = False
    """The handler gets `reply` as a third argument and calls it once, whenever it can.

    For what waits for another client, not for our disk: it holds up no other event, and its domain bounds it.
    """


@dataclass(slots=True)
class SocketHooks:
    """What domains want to know about sockets, beside events."""

    connected: list[Callable[[ServerContext, Client], None]] = field(default_factory=list)
    disconnected: list[Callable[[ServerContext, Client, str], None]] = field(default_factory=list)
    """(peer, reason of the engine)."""


class SocketServer:
    """All sockets of one server."""

    def __init__(self, context: ServerContext, events: Mapping[str, EventHandler], hooks: SocketHooks) -> None:
        self.context = context
        self.events = events
        self.hooks = hooks
        self.links: dict[str | None, Link] = {}
        self._expected: dict[str, tuple[asyncio.TimerHandle, str]] = {}
        self._limits = context.limits
        self._tasks: set[asyncio.Task[Any]] = set()
        self._calling: set[Link] = set()
        self.sio = stack.server(self)
        self.sio.on("connect", self._connect)
        self.sio.on("disconnect", self._disconnect)
        context.bus.subscribe(Committed, self.deliver)
        context.bus.subscribe(Ephemeral, self.deliver)

    # ------------------------------------------------------------------------------------- sending
    def deliver(self, event: Committed | Ephemeral) -> None:
        """Send an event to its audience, encoded once for all receivers."""
        packet = None
        skip = event.skip if isinstance(event, Committed) else None
        for client in self.context.clients.of(event.audience):
            if packet is None:
                if isinstance(event, Committed):
                    packet = Packet(b'2["update",%b]' % event.frame)
                else:
                    packet = Packet(b"2" + json_codec.encode(["ephemeral", event.body]))
            if client.sid != skip:
                client.send(packet)

    # ----------------------------------------------------------------------------------- receiving
    def dispatch(self, link: Link, event: str, args: list[Any], id: int | None) -> None:
        """Runs the handler of an event now, in the order of arrival; the ack comes whatever happens."""
        on = self.events.get(event)
        self.context.counters.event(event if on is not None else "unknown")
        if on is None:
            link.acknowledge(id, ok_error(f"Unknown event {event[:100]}"))
            return
        data = args[0] if args else None
        try:
            if on.data is not None:
                data = json_codec.convert(data, on.data)
            if on.replies:
                on.handler(self.context, link, data, lambda value: link.acknowledge(id, value))
                return
            result = on.handler(self.context, link, data)
        except Exception as error:
            result = on.refuse(_text(event, error))
        if asyncio.iscoroutine(result):
            result = self.spawn(result)
        if not isinstance(result, asyncio.Future):
            link.acknowledge(id, result)
            return
        link.began()
        result.add_done_callback(link.settled)

        def done(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                value = on.refuse(_text(event, error))
            else:
                value = on.refuse("Cancelled") if future.cancelled() else future.result()
            link.acknowledge(id, value)

        result.add_done_callback(done)

    def calls_wait(self, link: Link) -> None:
        """Somebody was asked something: from now on it is looked whether its time is over."""
        if not self._calling:
            asyncio.get_running_loop().call_later(CALLS_EVERY, self._expire_calls)
        self._calling.add(link)

    def _expire_calls(self) -> None:
        now = time.monotonic()
        self._calling = {link for link in self._calling if link.expire(now)}
        if self._calling:
            asyncio.get_running_loop().call_later(CALLS_EVERY, self._expire_calls)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something beside, until it is done or the server stops."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ----------------------------------------------------------------------------------- handshake
    def expect_connect(self, eio_sid: str, scope: Scope) -> None:
        """An engine connection on which nobody sends CONNECT is closed."""
        self._expect(eio_sid, self._limits.address(scope))

    def _expect(self, eio_sid: str, address: str) -> None:
        self._limits.add_unauthenticated(address)
        timer = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT, self._never_connected, eio_sid)
        self._expected[eio_sid] = timer, address

    def _expect_no_more(self, eio_sid: str) -> str:
        """-> the address it comes from"""
        timer, address = self._expected.pop(eio_sid, (None, ""))
        if timer is not None:
            timer.cancel()
            self._limits.remove_unauthenticated(address)
        return address

    def _never_connected(self, eio_sid: str) -> None:
        self._expect_no_more(eio_sid)
        engine = self.sio.eio.sockets.get(eio_sid)
        if engine is not None:
            self.abort(engine)

    def abort(self, engine: Any) -> None:
        """Closes an engine socket soon, whatever it is doing."""
        self.spawn(client_module.abort(engine))

    def ended(self, eio_sid: str) -> None:
        """The engine gave a socket up (a ping was not answered, the client left)."""
        self._expect_no_more(eio_sid)
        engine = self.sio.eio.sockets.get(eio_sid)
        if engine is not None:
            # Later, so that a last packet of the engine still goes out before. It ends the connection, or
            # the poll that the client left waiting.
            asyncio.get_running_loop().call_soon(engine.queue.end)

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        """Checks in the order of protocol.md section 14; enters the room last, with no await after."""
        auth = auth if isinstance(auth, dict) else {}
        token = auth.get("token")
        if not isinstance(token, str) or not token:
            raise stack.Refusal("Missing authentication token")
        kind: Kind = "user"
        id: Any = ""
        match auth.get("clientType"):
            case "session-scoped":
                kind, id = "session", auth.get("sessionId")
                if not isinstance(id, str) or not id:
                    raise stack.Refusal("Session ID required for session-scoped clients")
            case "machine-scoped":
                kind, id = "machine", auth.get("machineId")
                if not isinstance(id, str) or not id:
                    raise stack.Refusal("Machine ID required for machine-scoped clients")
        account_id = await authentication.authenticate(self.context.database, self.context.keys.tokens, token)
        if account_id is None:
            raise stack.Refusal("Invalid authentication token")
        eio_sid = self.sio.manager.eio_sid_from_sid(sid, "/")
        engine = self.sio.eio.sockets.get(eio_sid)
        if engine is None or engine.closed:
            raise stack.Refusal("Connection closed")
        if not self._limits.allows_socket(self.context.clients.count_of(account_id)):
            raise stack.Refusal("Too many connections")
        link = Link(self, sid, account_id, kind, id, engine)
        link.address = self._expect_no_more(eio_sid)
        client = auth.get("happyClient")
        link.happy_client = client[:100] if isinstance(client, str) else ""
        link.app_state = "active" if auth.get("appState") == "active" else "background"
        self.links[sid] = link
        self.context.clients.enter(link)
        for hook in self.hooks.connected:
            hook(self.context, link)

    def _disconnect(self, sid: str, reason: str) -> None:
        link = self.links.pop(sid, None)
        if link is None:
            return
        self.context.clients.leave(link)
        link.close()
        for hook in self.hooks.disconnected:
            hook(self.context, link, reason)
        # Whoever says DISCONNECT and stays is a stranger again; else such connections had no bound.
        if not link.engine.closing and not link.engine.closed:
            self._expect(link.engine.sid, link.address)

    def sign_out(self, account_id: str) -> None:
        """Ends every socket of an account."""
        for client in self.context.clients.account(account_id):
            cast("Link", client).drop()

    async def close(self) -> None:
        """Ends every socket so that clients come back by themselves, and what handlers still do.

        Hypercorn does not stop on Python 3.12 and later while a websocket is open (its issue 308).
        """
        for timer, _ in self._expected.values():
            timer.cancel()
        for engine in list(self.sio.eio.sockets.values()):
            await client_module.abort(engine)
        for task in list(self._tasks):
            task.cancel()


def _text(event: str, error: BaseException) -> str:
    """What an ack says about an error; what is our fault goes to the log."""
    if isinstance(error, ApiError):
        return error.response.error
    if isinstance(error, msgspec.ValidationError | UnicodeError | RecursionError):
        return "Invalid parameters"
    if isinstance(error, ServiceUnavailable):
        return str(error)
    log.error("event %s", event, exc_info=error)
    return "Internal error"


def collect(tables: Iterable[Mapping[str, EventHandler]]) -> dict[str, EventHandler]:
    """One table of all domains' events; a name that stands twice is a mistake."""
    events: dict[str, EventHandler] = {}
    for table in tables:
        twice = events.keys() & table.keys()
        assert not twice, f"{twice} handled twice"
        events.update(table)
    return events

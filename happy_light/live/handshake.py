"""CONNECT and its end: a token becomes a client, and domains hear of clients that come and go."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec

from happy_light.auth.authentication import authenticate
from happy_light.clients import Client, ClientKind, DisconnectReason, Transport
from happy_light.clients.recovery import Recovered
from happy_light.context import ServerContext
from happy_light.wire import ID_MAX

log = logging.getLogger(__name__)

HAPPY_CLIENT_MAX: Final = 100  # characters of `happyClient` that are kept


class ConnectRefused(Exception):
    """The client may not connect; the text is the message of its `connect_error`."""


class SocketHooks(msgspec.Struct):
    """What domains do when a client has connected, or is gone."""

    connected: list[Callable[[ServerContext, Client], None]] = []
    disconnected: list[Callable[[ServerContext, Client, DisconnectReason], None]] = []


class ConnectRequest(msgspec.Struct):
    """The checked `auth` of a CONNECT, except that its token is not verified yet."""

    token: str
    kind: ClientKind
    id: str
    happy_client: str
    in_foreground: bool
    pid: str = ""
    offset: str = ""
    """With `pid`, which connection to continue and after which event; "" for none."""
    device: str = ""
    """The device of the token, once that is verified."""
    prepared: Recovered | None = None
    """What it continues with, if other processes had to be asked."""


def check(auth: Any) -> ConnectRequest:
    """Return what a client asks for. Raises ConnectRefused; the order is that of docs/protocol.md, section 14."""
    auth = auth if isinstance(auth, dict) else {}
    token = auth.get("token")
    if not isinstance(token, str) or not token:
        raise ConnectRefused("Missing authentication token")
    kind: ClientKind = "user"
    id: Any = ""
    match auth.get("clientType"):
        case "session-scoped":
            kind, id = "session", auth.get("sessionId")
            if not isinstance(id, str) or not 0 < len(id) <= ID_MAX:
                raise ConnectRefused("Session ID required for session-scoped clients")
        case "machine-scoped":
            kind, id = "machine", auth.get("machineId")
            if not isinstance(id, str) or not 0 < len(id) <= ID_MAX:
                raise ConnectRefused("Machine ID required for machine-scoped clients")
    name = auth.get("happyClient")
    happy_client = name[:HAPPY_CLIENT_MAX] if isinstance(name, str) else ""
    in_foreground = auth.get("appState") == "active"
    pid, offset = auth.get("pid"), auth.get("offset")
    if not (isinstance(pid, str) and isinstance(offset, str)):
        pid = offset = ""
    return ConnectRequest(token, kind, id, happy_client, in_foreground, pid, offset)


class Handshake:
    """Make clients of connections, and end them."""

    def __init__(self, context: ServerContext, hooks: SocketHooks) -> None:
        self._context = context
        self._limits = context.limits
        self._recovery = context.clients.recovery
        self._hooks = hooks

    def account_at_once(self, request: ConnectRequest) -> str | None:
        """Return the account of a token that was verified not long ago; None if something has to be looked up."""
        claims = self._context.keys.tokens.cached(request.token)
        if claims is None or not self._context.clients.is_loaded(claims.account_id):
            return None
        request.device = claims.device
        return None if request.pid and self._recovery.is_shared else claims.account_id

    async def account(self, request: ConnectRequest) -> str:
        """Return the account of the token, loaded. Raises ConnectRefused, ServiceUnavailable."""
        tokens, prepared = self._context.keys.tokens, False
        while True:
            revocations = tokens.revocations
            claims = await authenticate(self._context.database, tokens, request.token)
            if claims is None:
                raise ConnectRefused("Invalid authentication token")
            account_id, request.device = claims.account_id, claims.device
            await self._context.clients.load(account_id)
            if request.pid and self._recovery.is_shared and not prepared:
                prepared = True
                request.prepared = await self._recovery.prepare(
                    request.pid, request.offset, account_id, request.kind, request.id
                )
            if revocations == tokens.revocations:
                return account_id
            # Somebody was signed out meanwhile, and it may be this device: ask again.

    def accept(self, request: ConnectRequest, account_id: str, transport: Transport) -> tuple[Client, Recovered | None]:
        """Return the new client, and what it continues if it can; nothing is sent to it before `enter`.

        Raises ConnectRefused.
        """
        recovered = self._recover(request, account_id)
        if not self._limits.allows_socket(self._context.clients.count(account_id)):
            raise ConnectRefused("Too many connections")
        sid = secrets.token_urlsafe(15) if recovered is None else recovered.sid
        client = Client(sid, account_id, request.kind, request.id, transport)
        client.device = request.device
        client.happy_client = request.happy_client
        client.app_state = "active" if request.in_foreground else "background"
        self._recovery.begin(client, recovered)
        return client, recovered

    def _recover(self, request: ConnectRequest, account_id: str) -> Recovered | None:
        if self._recovery.is_shared or not request.pid:
            return request.prepared
        former = self._recovery.find(request.pid, account_id, request.kind, request.id)
        if former is not None:  # it was cut off, and the server has not noticed yet
            former.transport.end("transport close")
        return self._recovery.continue_(request.pid, request.offset, account_id, request.kind, request.id)

    def enter(self, client: Client, recovered: Recovered | None) -> None:
        """Let the client receive the events of its audiences; its CONNECT is answered by now."""
        subscriptions = frozenset() if recovered is None else recovered.subscriptions
        client.wanted_sessions.update(subscriptions)
        self._context.clients.enter(client, subscriptions)
        for hook in self._hooks.connected:
            hook(self._context, client)

    def leave(self, client: Client, reason: DisconnectReason) -> None:
        """Forget the client. Whoever waits for its answers is told."""
        log.debug(
            "socket of account %s ended: %s-scoped %s, client %r: %s",
            client.account_id, client.kind, client.id, client.happy_client, reason,
        )  # fmt: skip
        self._recovery.end(client, reason)
        self._context.clients.leave(client)
        client.close()
        for hook in self._hooks.disconnected:
            hook(self._context, client, reason)

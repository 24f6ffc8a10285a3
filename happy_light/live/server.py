"""All sockets of one server: the ASGI application under PATH, and the assembly of the parts of live/."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from starlette.types import Receive, Scope, Send

from happy_light.context import ServerContext
from happy_light.live.cork import Cork
from happy_light.live.delivery import Delivery
from happy_light.live.dispatch import Dispatcher, EventHandler
from happy_light.live.handshake import Handshake, SocketHooks
from happy_light.live.polling import PollingTransport
from happy_light.live.polling_requests import PollingRequests, parse_query, refusal
from happy_light.live.transport import Connections
from happy_light.live.upgrade import UpgradingTransport
from happy_light.live.websocket import WebSocketTransport
from happy_light.stack.hypercorn_protocol import TAKE_OVER

PATH: Final = "/v1/updates"


class SocketServer:
    """The sockets of one server. `events` are the domains' handlers by event."""

    def __init__(self, context: ServerContext, events: Mapping[str, EventHandler], hooks: SocketHooks) -> None:
        cork = Cork()
        self.dispatcher = Dispatcher(context, events, cork)
        self.connections = Connections(Handshake(context, hooks), self.dispatcher, context.limits, cork)
        self.clients = context.clients.local
        self._recovery = context.clients.recovery
        self._polling = PollingRequests(context, self.connections)
        self.delivery = Delivery(context.bus, context.clients, cork)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of a polling client, or let a websocket begin (ASGI)."""
        if scope["type"] == "http":
            await self._polling.answer(scope, receive, send)
        else:
            await self._begin_websocket(scope, send)

    async def _begin_websocket(self, scope: Scope, send: Send) -> None:
        query = parse_query(scope)
        polling = self.connections.by_id.get(query.get("sid", ""))
        limits = self.connections.limits
        if refusal(query, "websocket") is not None or limits.refuses_connection(scope):
            await send({"type": "websocket.close", "code": 1013})
            return
        begun: list[WebSocketTransport] = []

        def begin(writer: asyncio.StreamWriter, closed: Callable[[], None]) -> asyncio.Protocol:
            if isinstance(polling, PollingTransport):
                begun.append(UpgradingTransport(self.connections, polling, writer, closed))
            else:
                begun.append(WebSocketTransport(self.connections, limits.address(scope), writer, closed))
            return begun[0]

        if "sid" in query and not (isinstance(polling, PollingTransport) and polling.probe is None):
            await send({"type": "websocket.close", "code": 1013})
        elif await scope["extensions"][TAKE_OVER](begin):
            begun[0].begin()

    def sign_out_device(self, account_id: str, device_id: str) -> None:
        """Close every socket of a device. To continue one takes a valid token."""
        for client in self.clients.of_account(account_id):
            if client.device == device_id:
                client.drop()

    def sign_out(self, account_id: str) -> None:
        """Close every socket of an account, and let none be continued."""
        for client in self.clients.of_account(account_id):
            client.drop()
        self._recovery.forget_account(account_id)

    async def close(self) -> None:
        """Close every socket, so that clients come back by themselves, and cancel what handlers still do."""
        self.connections.close()
        self.dispatcher.close()

"""What stands before the Socket.IO library's own HTTP side.

That side reads a body whole, however large and whoever sends it, and for what it cannot parse it logs a
traceback and answers 200.
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import parse_qs

from engineio.payload import Payload
from starlette.types import Message, Receive, Scope, Send

from happy_light.errors import ApiError, BadRequest
from happy_light.http.body import ClientGone
from happy_light.http.request import Request
from happy_light.http.responses import refuse_body
from happy_light.live import PACKET_MAX, SocketServer

log = logging.getLogger(__name__)

STRANGER_MAX: Final = 64 * 1024  # bytes of a body before the CONNECT is accepted; a token has about 350


class Door:
    """The ASGI application under live.PATH: bodies are bounded and must be packets."""

    def __init__(self, live: SocketServer) -> None:
        self._live = live
        self._limits = live.context.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sid = parse_qs(scope["query_string"].decode("latin-1")).get("sid", [""])[0]
        request: Request[None, None] = Request(self._live.context, scope, receive, {})
        try:
            if not sid and self._limits.refuses_connection(scope):
                raise BadRequest("Too many connections that are not signed in", 429)
            if scope["type"] == "http":
                receive = await self._checked(request, receive, sid)
                if any(name == b"upgrade" for name, _ in scope["headers"]):
                    # It asked for a websocket in a way that makes none (no Connection: Upgrade, a POST); the library
                    # would believe it.
                    scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"upgrade"]}
            await self._live.sio.handle_request(scope, receive, send)
        except ClientGone:
            pass
        except (BadRequest, ApiError) as refused:
            error = refused if isinstance(refused, BadRequest) else BadRequest(str(refused), refused.response.status)
            if scope["type"] == "http":
                await refuse_body(request, error, send)
            else:
                await send({"type": "websocket.close", "code": 1013})
            self._end(sid)
        except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
            log.info("a client sent what is no Engine.IO packet (%s); it is disconnected", type(error).__name__)
            if scope["type"] == "http":
                await refuse_body(request, BadRequest("Not a packet"), send)
            self._end(sid)
        finally:
            request.release_body()

    async def _checked(self, request: Request[None, None], receive: Receive, sid: str) -> Receive:
        """Reads the body. -> what hands it on. Raises BadRequest (413, 408) and what `Payload` raises."""
        manager = self._live.sio.manager
        client = None
        if sid in self._live.sio.eio.sockets:
            client = self._live.links.get(manager.sid_from_eio_sid(sid, "/"))
        if client is not None:
            request.account_id = client.account_id
        body = await request.read(STRANGER_MAX if client is None else PACKET_MAX)
        if request.scope["method"] == "POST":
            Payload(encoded_payload=body.decode())
        message: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def again() -> Message:
            nonlocal message
            if message is None:
                return await receive()
            taken, message = message, None
            return taken

        return again

    def _end(self, sid: str) -> None:
        engine = self._live.sio.eio.sockets.get(sid)
        if engine is not None:
            self._live.abort(engine)

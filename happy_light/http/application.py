"""The HTTP edge: find the route, authenticate, decode, call, encode. The one writer of error bodies.

Routes are rows (`Route`) that the domains list; the edge is a plain ASGI application over them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar, get_type_hints
from urllib.parse import parse_qsl, unquote

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from happy_light import wire
from happy_light.auth import authentication
from happy_light.context import ServerContext
from happy_light.errors import (
    INVALID_TOKEN,
    MISSING_AUTHORIZATION,
    ApiError,
    BadRequest,
    ErrorResponse,
    ServiceUnavailable,
)
from happy_light.http.limits import FREE

log = logging.getLogger(__name__)

B = TypeVar("B")
Q = TypeVar("Q")

BODY_MAX: Final = 100 * 1024 * 1024  # bytes
_BODY_PAUSE: Final = 30.0  # s that a client may take for the next piece of its body
_DRAIN: Final = 5.0  # s in which a body that was refused may still arrive before the connection is cut
_BODY_HEADERS = frozenset((b"content-length", b"transfer-encoding"))
_JSON = (b"content-type", b"application/json; charset=utf-8")


class Request(Generic[B, Q]):
    """One request, as an endpoint sees it."""

    __slots__ = ("_receive", "_unread", "account_id", "body", "context", "path", "query", "scope")

    def __init__(self, context: ServerContext, scope: Scope, receive: Receive, path: dict[str, str]) -> None:
        self.context = context
        self.scope = scope
        self.path = path
        """The parameters of the path, decoded."""
        self.account_id = ""
        """Whose token came with the request; "" on public routes."""
        self.body: B
        self.query: Q
        self._receive = receive
        # A request that declares no body has none (RFC 9112, 6.3), so there is nothing to wait for.
        self._unread = any(name in _BODY_HEADERS for name, _ in scope["headers"])

    def header(self, name: bytes) -> str | None:
        """The first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def _check_declared(self, limit: int) -> None:
        declared = self.header(b"content-length")
        if declared is not None and int(declared) > limit:
            raise BadRequest(f"The body is larger than {limit} bytes", 413)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._unread = False
            raise _Gone
        self._unread = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def stream(self, limit: int = BODY_MAX) -> AsyncIterator[bytes]:
        """The body in pieces. Raises BadRequest (413) past `limit` bytes, (408) when it stalls."""
        self._check_declared(limit)
        size = 0
        while self._unread:
            try:
                async with asyncio.timeout(_BODY_PAUSE):
                    piece = await self._next()
            except TimeoutError:
                raise BadRequest("The body did not arrive in time", 408) from None
            size += len(piece)
            if size > limit:
                raise BadRequest(f"The body is larger than {limit} bytes", 413)
            if piece:
                yield piece

    async def read(self, limit: int = BODY_MAX, arrived: Callable[[int], None] | None = None) -> bytes:
        """The whole body. `arrived` is told how much has come and may refuse. Raises BadRequest as `stream`."""
        self._check_declared(limit)
        pieces: list[bytes] = []
        size = 0
        try:
            # One timer for the body, not one for each piece: most bodies are here already, and it would cost more.
            async with asyncio.timeout(_BODY_PAUSE) as patience:
                while self._unread:
                    piece = await self._next()
                    size += len(piece)
                    if size > limit:
                        raise BadRequest(f"The body is larger than {limit} bytes", 413)
                    if piece:
                        pieces.append(piece)
                        if arrived is not None:
                            arrived(size)
                        if len(pieces) > 1:
                            patience.reschedule(asyncio.get_running_loop().time() + _BODY_PAUSE)
        except TimeoutError:
            raise BadRequest("The body did not arrive in time", 408) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def discard(self) -> None:
        """Reads what is left of the body: Hypercorn hangs on a connection with much unread."""
        while self._unread:
            async with asyncio.timeout(_BODY_PAUSE):
                message = await self._receive()
            self._unread = message["type"] == "http.request" and message.get("more_body", False)


class _Gone(Exception):
    """The client left before its request was complete; there is nobody to answer."""


Endpoint = Callable[[Request[Any, Any]], Awaitable[Any]]


class Route:
    """A row of a domain's table.

    `body` and `query` are the structs that the request must fit, `answer` is what a 200 carries and
    `refusals` are the other answers it can give; `others` are those with a body of their own, by
    status (None: no body). An endpoint returns a struct (encoded as JSON with 200) or a Starlette response.
    `streams`: the endpoint reads the body by itself; `body` then only says what fits. A path that ends
    in `/*` after one folder stands for everything below it; what is below is the parameter `*`.
    """

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        *,
        answer: Any = wire.Success,
        body: type[Any] | None = None,
        query: type[Any] | None = None,
        errors: Sequence[ErrorResponse] = (),
        other_responses: Mapping[int, Any] = MappingProxyType({}),
        public: bool = False,
        streams: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.endpoint = endpoint
        self.answer = answer
        self.body = body
        self.query = query
        self.errors = tuple(errors)
        self.other_responses = other_responses
        self.public = public
        self.streams = streams
        self.parameters = [part[1:] for part in path.split("/") if part.startswith(":")]

    # Made at the first request, because a start waits for nothing that nobody asked for.
    @functools.cached_property
    def _decode(self) -> Callable[[bytes], Any]:
        return wire.decode if self.body is None else wire.decoder(self.body)

    @functools.cached_property
    def _numbers(self) -> set[str]:
        """The wire names of the query's integers."""
        assert self.query is not None
        hints = get_type_hints(self.query)
        fields = msgspec.structs.fields(self.query)
        return {field.encode_name for field in fields if hints[field.name] in (int, int | None)}

    def decode_query(self, raw: bytes) -> Any:
        """The query string as the struct `query`. Raises BadRequest, msgspec.ValidationError."""
        assert self.query is not None
        given = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
        pairs = dict(given)
        for name in self.query.__struct_encode_fields__ if len(pairs) < len(given) else ():
            if [each for each, _ in given].count(name) > 1:
                raise BadRequest(f"{name} is there twice")
        for name in self._numbers & pairs.keys():
            pairs[name] = wire.js_integer(pairs[name])
        return msgspec.convert(pairs, self.query, strict=False)

    def decode_body(self, raw: bytes, content_type: str | None) -> Any:
        """The body as the struct `body`. Raises BadRequest, msgspec.DecodeError."""
        kind = (content_type or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            if not kind and not raw:
                if self.body is None:
                    return None
                raise BadRequest("A JSON body is needed")
            if self.body is None and not raw:
                return None
            raise BadRequest(
                f"Content type {kind or 'none'} is not application/json", 400 if kind == "text/plain" else 415
            )
        if not raw or raw.isspace():
            raw = b"{}"
        return self._decode(raw)


class HttpApplication:
    """The ASGI application over all routes; a GET that is none of them goes to `fallback`, if there is one."""

    def __init__(self, context: ServerContext, routes: Iterable[Route], fallback: Route | None = None) -> None:
        self.context = context
        self.fallback = fallback
        self._limits = context.limits
        self._static: dict[tuple[str, str], Route] = {}
        self._tree: dict[str, Any] = {}
        self._below: dict[tuple[str, str], Route] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        if route.path.endswith("/*"):
            self._below[route.method, route.path.split("/")[1]] = route
            return
        if not route.parameters:
            known = self._static.setdefault((route.method, route.path), route)
            assert known is route, f"{route.method} {route.path} is there twice"
            return
        node = self._tree
        for part in [route.method, *route.path.split("/")[1:]]:
            node = node.setdefault(":" if part.startswith(":") else part, {})
        assert "" not in node, f"{route.method} {route.path} is there twice"
        node[""] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a method and a raw (still percent-encoded) path, and its parameters."""
        route = self._static.get((method, path))
        if route is not None:
            return route, {}
        _, _, inside = path.partition("/")
        folder, slash, rest = inside.partition("/")
        below = self._below.get((method, folder)) if slash else None
        if below is not None:
            return below, {"*": unquote(rest)}
        node = self._tree.get(method)
        if node is None:
            return None
        values: list[str] = []
        for part in path.split("/")[1:]:
            following = node.get(part) if part != "" else None
            if following is None:
                following = node.get(":") if part else None
                if following is None:
                    return None
                values.append(unquote(part) if "%" in part else part)
            node = following
        route = node.get("")
        if route is None:
            return None
        return route, dict(zip(route.parameters, values, strict=True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        method = scope["method"]
        raw_path = scope["raw_path"].decode("ascii")
        found = self.find("GET" if method == "HEAD" else method, raw_path)
        if found is None and self.fallback is not None and method in ("GET", "HEAD"):
            found = self.fallback, {}
        request: Request[Any, Any] = Request(self.context, scope, receive, found[1] if found else {})
        try:
            if found is not None:
                response = await self._answer(request, found[0])
            else:
                response = not_found(scope)
            if request._unread:
                await request.discard()
            if isinstance(response, Response):
                status = response.status_code
                await response(scope, receive, send)
            else:
                status = 200
                await _send_json(send, response)
        except BadRequest as error:
            status = error.status
            await refuse_unread(request, error, send)
        except (_Gone, TimeoutError):
            return
        if found is None:  # what is asked for is the client's choice, so it is no label
            method, route = "any", "none"
        else:
            route = found[0].path
        client = request.header(b"x-happy-client")
        self.context.counters.request(method, route, status, client, time.perf_counter() - began)

    async def _answer(self, request: Request[Any, Any], route: Route) -> Response | Any:
        """The endpoint's answer, or the refusal in its place."""
        held = 0

        def arrived(size: int) -> None:
            nonlocal held
            if size > FREE:
                self._limits.hold(request.account_id, size - held)
                held = size

        try:
            if not route.public:
                request.account_id = await authorize(request)
            elif route.path.startswith("/v1/"):
                self._limits.request(request.scope)
            if route.query is not None:
                request.query = route.decode_query(request.scope["query_string"])
            if not route.streams and (route.body is not None or route.method in ("POST", "PUT")):
                raw = await request.read(arrived=arrived)
                request.body = route.decode_body(raw, request.header(b"content-type"))
                del raw
            return await route.endpoint(request)
        except ApiError as refused:
            return json_response(refused.response.status, {"error": refused.response.error, **refused.extra})
        except BadRequest as error:
            if error.status in (408, 413):
                raise
            return failure(error.status, str(error))
        except (msgspec.DecodeError, UnicodeError) as error:
            return failure(400, str(error))
        except RecursionError:
            return failure(400, "The JSON is nested too deeply")
        except ServiceUnavailable as error:
            return failure(503, str(error))
        except _Gone:
            raise
        except Exception:
            log.exception("%s %s", route.method, route.path)
            return failure(500, "An unexpected error occurred")
        finally:
            if held:
                self._limits.release(request.account_id, held)


async def authorize(request: Request[Any, Any]) -> str:
    """The account whose token came with the request. Raises Refused."""
    header = request.header(b"authorization")
    if header is None or not header.startswith("Bearer "):
        raise ApiError(MISSING_AUTHORIZATION)
    account_id = await authentication.authenticate(request.context.database, request.context.keys.tokens, header[7:])
    if account_id is None:
        raise ApiError(INVALID_TOKEN)
    return account_id


async def refuse_unread(request: Request[Any, Any], error: BadRequest, send: Send) -> None:
    """Answers while the rest of the body is still coming, and lets the connection go.

    Somebody has to take what arrives: Hypercorn would wait for room in its queue for ever, and a
    connection closed over unread bytes is reset, so that the client never sees the answer.
    """
    response = failure(error.status, str(error))
    response.headers["connection"] = "close"
    drain = asyncio.ensure_future(request.discard())
    try:
        await send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await asyncio.wait({drain}, timeout=_DRAIN)
        await send({"type": "http.response.body", "body": b""})
    finally:
        drain.cancel()


async def _send_json(send: Send, value: Any) -> None:
    body = wire.encode(value)
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [_JSON, (b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def json_response(status: int, value: Any) -> Response:
    """A JSON answer with a status other than 200."""
    return Response(wire.encode(value), status, media_type="application/json; charset=utf-8")


def failure(status: int, message: str) -> Response:
    """`{error, message, statusCode}`, for what does not fit and for what went wrong."""
    return json_response(status, wire.Failure(HTTPStatus(status).phrase, message, status))


def not_found(scope: Scope) -> Response:
    """The 404 of an unknown path."""
    url = scope["raw_path"].decode("ascii")
    if scope["query_string"]:
        url += "?" + scope["query_string"].decode("latin-1")
    return json_response(404, {"error": "Not found", "path": url, "method": scope["method"]})

"""Routes: the rows that domains list, and finding the one of a request."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_type_hints
from urllib.parse import parse_qsl, unquote

import msgspec

from happy_light import json_codec
from happy_light.errors import BadRequest, ErrorResponse
from happy_light.http.request import Request
from happy_light.wire import Success

Endpoint = Callable[[Request[Any, Any]], Awaitable[Any]]


class Route:
    """A row of a domain's table of routes.

    - `path`: parts that begin with `:` are parameters; `/folder/*` is everything below the folder, as parameter `*`.
    - `endpoint`: returns a struct, which is sent as JSON with status 200, or a Starlette response.
    - `answer`: the type of what a 200 carries. `errors`: the refusals that the endpoint may raise.
      `other_responses`: answers with another status and a body of their own (None: no body).
    - `body`, `query`: the structs that the request must fit.
    - `public`: the route needs no token. `streams`: the endpoint reads the body itself, and authenticates itself if
      the route is public.
    - `conditional`: the answer depends only on what belongs to the caller's account, so it carries an ETag, and 304
      answers for it while nothing of the account has changed (docs/protocol.md, section 22). It is also kept for
      others who ask meanwhile, unless it is `timed`: it tells the time, and is made anew for each request.
    """

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        *,
        answer: Any = Success,
        body: type[Any] | None = None,
        query: type[Any] | None = None,
        errors: Sequence[ErrorResponse] = (),
        other_responses: Mapping[int, Any] = MappingProxyType({}),
        public: bool = False,
        streams: bool = False,
        conditional: bool = False,
        timed: bool = False,
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
        self.conditional = conditional
        self.timed = timed
        self.parameters = [part[1:] for part in path.split("/") if part.startswith(":")]

    @property
    def takes_body(self) -> bool:
        """Whether a request may carry a JSON body."""
        return self.body is not None or self.method in ("POST", "PUT", "PATCH")

    def decode_query(self, raw: bytes) -> Any:
        """Return the query string as the struct `query`. Raises BadRequest or msgspec.ValidationError."""
        assert self.query is not None
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True)
        values = dict(pairs)
        for name in self.query.__struct_encode_fields__ if len(values) < len(pairs) else ():
            if [each for each, _ in pairs].count(name) > 1:
                raise BadRequest(f"{name} is there twice")
        for name in self._integers & values.keys():
            values[name] = _javascript_integer(values[name])
        return msgspec.convert(values, self.query, strict=False)

    def decode_body(self, raw: bytes, content_type: str | None) -> Any:
        """Return the body as the struct `body`. Raises BadRequest, msgspec.DecodeError or UnicodeError."""
        media_type = (content_type or "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            if not raw and self.body is None:
                return None
            if not raw and not media_type:
                raise BadRequest("A JSON body is needed")
            status = 400 if media_type == "text/plain" else 415
            raise BadRequest(f"Content type {media_type or 'none'} is not application/json", status)
        return self._decode(b"{}" if not raw or raw.isspace() else raw)

    # Both are made at the first request, because making them for all routes would delay the start.
    @functools.cached_property
    def _decode(self) -> Callable[[bytes], Any]:
        return json_codec.decode if self.body is None else json_codec.decoder(self.body)

    @functools.cached_property
    def _integers(self) -> set[str]:
        """The names on the wire of the query's integers."""
        assert self.query is not None
        hints = get_type_hints(self.query)
        fields = msgspec.structs.fields(self.query)
        return {field.encode_name for field in fields if hints[field.name] in (int, int | None)}


def _javascript_integer(text: str) -> str:
    """Return an integer's text as JavaScript reads it: the empty text is 0 (`after_seq=`), 05 is 5."""
    return text.strip().lstrip("0") or "0"


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._static: dict[tuple[str, str], Route] = {}
        self._folders: dict[tuple[str, str], Route] = {}
        """Routes of everything below a folder, by method and folder."""
        self._tree: dict[str, Any] = {}
        """Routes with parameters: method, then the parts of the path (":" for a parameter), then "" for the route."""
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        if route.path.endswith("/*"):
            self._folders[route.method, route.path.split("/")[1]] = route
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
        """Return the route of a method and a path as it was sent (percent-encoded), and the path's parameters."""
        route = self._static.get((method, path))
        if route is not None:
            return route, {}
        folder, slash, rest = path.removeprefix("/").partition("/")
        below = self._folders.get((method, folder)) if slash else None
        if below is not None:
            return below, {"*": unquote(rest)}
        node = self._tree.get(method, {})
        values: list[str] = []
        for part in path.split("/")[1:]:
            if not part:
                return None
            child = node.get(part)
            if child is None:
                child = node.get(":")
                if child is None:
                    return None
                values.append(unquote(part) if "%" in part else part)
            node = child
        route = node.get("")
        return None if route is None else (route, dict(zip(route.parameters, values, strict=True)))

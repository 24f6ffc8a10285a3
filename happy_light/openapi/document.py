"""The OpenAPI document, made of the tables of routes and events and of the structs that they name.

There is no second list. Events of sockets are below `x-socket`, since OpenAPI has no word for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from happy_light import __version__, json_codec
from happy_light.errors import INVALID_TOKEN, MISSING_AUTHORIZATION
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.openapi.schemas import REF, Schema, Schemas, first_paragraph, members_of, tagged_structs
from happy_light.wire import Failure

_ROW: Final = re.compile(r"^\s*(GET|POST|PUT|PATCH|DELETE)\s+(/\S*) {2,}(\S.*)$", re.MULTILINE)
"""A row of the table in a domain's docstring: method, path, and what the route is for."""
_MODULE: Final = re.compile(rb"happy_light\.(?:domains\.)?(\w+)(?:\.\w+)*\.(\w+)")
"""The whole name of a struct: its domain, and its own name."""
_DESCRIPTION: Final = (
    "Times are milliseconds since the epoch; bytes are standard base64 with padding. An unknown path is answered "
    'with 404 and `{"error": "Not found", "path", "method"}`. HEAD works where GET does.'
)
_ADMIN: Final = (
    "Admin API: on the unix socket admin.sock in the data folder, for its owner only, and on the public port for who "
    "is signed in to the admin page: with the cookie of POST /admin/session and the header x-happy-admin, from the "
    "same origin. "
    'Long work answers with newline-delimited JSON: `{"done", "total"}` while it runs, and last `{"result"}` or '
    '`{"error"}`.'
)
_ALWAYS: Final = {500: "An unexpected error", 503: "Not possible now: the disk is full, or too much waits"}
_WITH_BODY: Final = {
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is of another type",
}


@dataclass(frozen=True, slots=True)
class Tables:
    """What a server consists of.

    `emits` are the events that handlers send by themselves, with the struct of their payload. `descriptions` are the
    docstrings of the domains by name: the first line says what a domain is, a table what its routes are for.
    `admin_descriptions` are those of the admin API.
    """

    routes: Sequence[Route]
    events: Mapping[str, EventHandler]
    emits: Mapping[str, type[Any]]
    descriptions: Mapping[str, str]
    admin_descriptions: Sequence[str]


def document(tables: Tables) -> Schema:
    """Return the whole document, ready to be encoded as JSON."""
    updates, ephemerals = tagged_structs("t"), tagged_structs("type")
    schemas = Schemas([Failure, *updates.values(), *ephemerals.values(), *_kinds(tables)])
    found = {
        "openapi": "3.1.0",
        "info": {"title": "happy-server-light", "version": __version__, "description": _DESCRIPTION},
        "tags": [*_tags(tables), {"name": "admin", "description": _ADMIN}],
        "paths": _paths(tables, schemas),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "x-socket": {
            "client": {name: _event(handler, schemas) for name, handler in sorted(tables.events.items())},
            "server": {name: _sent(kind, schemas) for name, kind in sorted(tables.emits.items())},
            "update": {tag: _sent(struct, schemas) for tag, struct in updates.items()},
            "ephemeral": {tag: _sent(struct, schemas) for tag, struct in ephemerals.items()},
        },
    }
    # Structs of the same name are told apart by their domains; where the code lies says nothing to others.
    encoded = _MODULE.sub(rb"\1.\2", json_codec.encode(found))
    short: Schema = json_codec.decode(encoded)
    return short


def _kinds(tables: Tables) -> list[Any]:
    """Return every type that a route or event names."""
    kinds: list[Any] = list(tables.emits.values())
    for route in tables.routes:
        kinds += [route.body, route.query, route.answer, *route.other_responses.values()]
    for handler in tables.events.values():
        kinds += [handler.data, handler.like, handler.ack]
    return kinds


def _tags(tables: Tables) -> list[Schema]:
    """Return the domains and what each is about, without the places in docs/ where readers of the code find more."""
    found = []
    for name, text in tables.descriptions.items():
        line = re.sub(r" \(docs/[^)]*\)", "", text.strip().partition("\n")[0])
        found.append({"name": name, "description": line})
    return found


def _domain(thing: Any) -> str:
    """Return the name of the domain to which a function or struct belongs."""
    return str(thing.__module__).removeprefix("happy_light.").removeprefix("domains.").partition(".")[0]


def _sent(struct: type[Any], schemas: Schemas) -> Schema:
    return {"tags": [_domain(struct)], "summary": first_paragraph(struct), "data": schemas.of(struct)}


def _event(handler: EventHandler, schemas: Schemas) -> Schema:
    event: Schema = {"tags": [_domain(handler.handler)], "summary": first_paragraph(handler.handler)}
    if handler.data is not None or handler.like is not None:
        event["data"] = schemas.of(handler.data or handler.like)
    if handler.ack is not None:
        event["ack"] = schemas.of(handler.ack)
    return event


# ------------------------------------------------------------------------------------------- routes
def _paths(tables: Tables, schemas: Schemas) -> Schema:
    docs = [*tables.descriptions.values(), *tables.admin_descriptions]
    rows = {(method, path): text for doc in docs for method, path, text in _ROW.findall(doc)}
    paths: Schema = {}
    for route in tables.routes:
        if route.path.endswith("/") and route.path != "/":
            continue  # the same as the path with a parameter, for an empty one
        path = re.sub(r":(\w+)", r"{\1}", route.path).replace("*", "{path}")
        summary = rows.get((route.method, route.path)) or first_paragraph(route.endpoint)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schemas, summary)
    return paths


def _operation(route: Route, path: str, schemas: Schemas, summary: str) -> Schema:
    operation: Schema = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {path}")),
        "tags": [_domain(route.endpoint)],
        "security": [] if route.public else [{"token": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "responses": _responses(route, schemas),
    }
    if summary:
        operation["summary"] = f"{summary[0].upper()}{summary[1:].rstrip('.')}."
    if route.query is not None:
        fields = schemas.components[schemas.name(route.query)]
        operation["parameters"] += [
            {"name": name, "in": "query", "required": name in fields["required"], "schema": schema}
            for name, schema in fields["properties"].items()
        ]
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.streams or bool(schemas.components[schemas.name(route.body)]["required"]),
            "content": {"application/json": {"schema": schemas.of(route.body)}},
        }
    elif route.method == "PUT":
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return operation


class _Responses:
    """The answers of one route, collected by status."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._schemas: dict[int, list[Schema]] = {}

    def add(self, status: int, text: str, schema: Schema | None) -> None:
        """Add an answer; `schema` is that of its body, None for an answer without one."""
        self._texts.setdefault(status, []).append(text)
        if schema is not None:
            self._schemas.setdefault(status, []).append(schema)

    def document(self) -> Schema:
        """Return the answers as OpenAPI describes them."""
        responses: Schema = {}
        for status in sorted(self._texts):
            response: Schema = {"description": "; ".join(dict.fromkeys(self._texts[status]))}
            schemas = self._schemas.get(status, [])
            if schemas:
                schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
                response["content"] = {"application/json": {"schema": schema}}
            responses[str(status)] = response
        return responses


def _responses(route: Route, schemas: Schemas) -> Schema:
    """Return what a 200 carries, every refusal with its text, and what can go wrong with any request."""
    found = _Responses()
    errors = [*route.errors, *([] if route.public else [MISSING_AUTHORIZATION, INVALID_TOKEN])]
    for status in dict.fromkeys(error.status for error in errors):
        texts = list(dict.fromkeys(error.error for error in errors if error.status == status))
        text: Schema = {"type": "string", "enum": texts}
        found.add(status, "; ".join(texts), {"type": "object", "properties": {"error": text}, "required": ["error"]})
    failure: Schema = {"$ref": REF + "Failure"}
    if route.takes_body or route.query is not None:
        found.add(400, "The request does not fit", failure)
    for status, description in {**(_WITH_BODY if route.takes_body else {}), **_ALWAYS}.items():
        found.add(status, description, failure)
    for status, kind in route.other_responses.items():
        if kind is None:
            found.add(status, HTTPStatus(status).phrase, None)
        else:
            found.add(status, _description(kind), schemas.of(kind))
    responses = found.document()
    if route.answer is not None:
        answer = {"description": _description(route.answer), "content": _content(route, schemas)}
        responses = {"200": answer, **responses}
    return responses


def _content(route: Route, schemas: Schemas) -> Schema:
    """Return the body of a 200 by content type: Annotated[str, "text/html"] names it, else the type does."""
    kind = route.answer
    if get_origin(kind) is Annotated:
        plain, *content_types = get_args(kind)
        schema = {"type": "string"} if plain is str else schemas.of(plain)
        return {content_type: {"schema": schema} for content_type in content_types}
    if kind is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    if kind is bytes:
        return {"*/*" if route.path.endswith("*") else "application/octet-stream": {}}
    return {"application/json": {"schema": schemas.of(kind)}}


def _description(kind: Any) -> str:
    """Return the first paragraph of a struct's docstring, for a union those of all its structs."""
    structs = [kind for kind in members_of(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return " / ".join(first_paragraph(struct) for struct in structs) or "OK"

"""The description of the server that it makes of itself: OpenAPI 3.1 for HTTP, and the same for sockets.

Everything comes from the tables of routes and events and from the structs they name; there is no second
list. What sockets say is under `x-socket`, since OpenAPI has no word for it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from happy_light import __version__, json_codec
from happy_light.errors import INVALID_TOKEN, MISSING_AUTHORIZATION
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.wire import Failure, Outgoing

_REF: Final = "#/components/schemas/"
_ROW: Final = re.compile(r"^\s*(GET|POST|PUT|DELETE)\s+(/\S*) {2,}(\S.*)$", re.MULTILINE)
_EVERY: Final = {500: "An unexpected error", 503: "Not possible now: the disk is full, or too much waits"}
_READING: Final = {408: "The body did not arrive in time", 413: "The body is too large"}
_ADMIN: Final = (
    "Not on the public port: these routes answer on the unix socket admin.sock in the data folder, to its owner only. "
    'Long work answers with newline-delimited JSON: `{"done", "total"}` while it runs, and last `{"result"}` or '
    '`{"error"}`.'
)

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """What a server consists of. `says` are events that handlers emit by themselves, with their payload;
    `docs` are the docstrings whose tables say what routes are for."""

    routes: list[Route]
    events: Mapping[str, EventHandler]
    emits: Mapping[str, type[Any]]
    docs: list[str]


def document(tables: Tables) -> Schema:
    """The whole description, ready to be encoded as JSON."""
    updates, ephemerals = _tagged("t"), _tagged("type")
    shapes = _Shapes(tables, [*updates.values(), *ephemerals.values()])
    summaries = {(method, path): text for doc in tables.docs for method, path, text in _ROW.findall(doc)}
    paths: Schema = {}
    for route in tables.routes:
        if route.path.endswith("/") and route.path != "/":
            continue  # the twin of a path with a parameter, for an empty one
        path = re.sub(r":(\w+)", r"{\1}", route.path).replace("*", "{path}")
        operation = _operation(route, path, shapes, summaries.get((route.method, route.path), ""))
        paths.setdefault(path, {})[route.method.lower()] = operation
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "happy-server-light",
            "version": __version__,
            "description": "Times are milliseconds since the epoch; bytes are standard padded base64. An unknown "
            'path is 404 `{"error": "Not found", "path", "method"}`. HEAD works where GET does.',
        },
        "tags": [{"name": "admin", "description": _ADMIN}],
        "paths": paths,
        "components": {
            "schemas": shapes.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "x-socket": {
            "client": {name: _event(on, shapes) for name, on in sorted(tables.events.items())},
            "server": {name: shapes.of(kind) for name, kind in sorted(tables.emits.items())},
            "update": {tag: shapes.of(struct) for tag, struct in updates.items()},
            "ephemeral": {tag: shapes.of(struct) for tag, struct in ephemerals.items()},
        },
    }
    # Structs of one name are told apart by their module; where it lies in our package says nothing to others.
    short: Schema = json_codec.decode(
        json_codec.encode(whole).replace(b"happy_light.domains.", b"").replace(b"happy_light.", b"")
    )
    return short


class _Shapes:
    """The JSON schema of every type, and the components they refer to."""

    def __init__(self, tables: Tables, told: list[type[Any]]) -> None:
        kinds: list[Any] = [Failure, *told, *tables.emits.values()]
        for route in tables.routes:
            kinds += [route.body, route.query, route.answer, *route.other_responses.values()]
        for on in tables.events.values():
            kinds += [on.data, on.like, on.ack]
        parts = [part for kind in kinds if kind is not None for part in _parts(kind)]
        structs = _structs(parts)
        known = list(dict.fromkeys([*parts, *structs]))
        schemas, self.components = msgspec.json.schema_components(known, ref_template=_REF + "{name}")
        self._known = dict(zip(known, schemas, strict=True))
        for struct in structs:
            component = self.components[self.name(struct)]
            if issubclass(struct, Outgoing):
                component["required"] = list(dict.fromkeys([*component["required"], *_always(struct)]))
            component.pop("title", None)

    def name(self, struct: type[Any]) -> str:
        """The component of a struct."""
        ref: str = self._known[struct]["$ref"]
        return ref.removeprefix(_REF)

    def of(self, kind: Any) -> Schema:
        """The schema of a type: structs by reference, unions of structs as a choice."""
        found = [self._known[part] for part in _parts(kind)]
        return found[0] if len(found) == 1 else {"anyOf": found}


def _structs(kinds: Iterable[Any]) -> list[type[Any]]:
    """The structs among these types and everything that they are made of."""
    found: dict[type[Any], None] = {}

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found[kind] = None
            for hint in get_type_hints(kind).values():
                visit(hint)
        for part in get_args(kind):
            visit(part)

    for kind in kinds:
        visit(kind)
    return list(found)


def _parts(kind: Any) -> list[Any]:
    """The members of a union, or the type itself: msgspec cannot describe untagged structs in a union."""
    if get_origin(kind) is Annotated:
        return _parts(get_args(kind)[0])
    return list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]


def _always(struct: type[Any]) -> list[str]:
    """What an answer always has: a default is sent too, only UNSET is left out."""
    return [field.encode_name for field in msgspec.structs.fields(struct) if field.default is not msgspec.UNSET]


def _tagged(tag_field: str) -> dict[str, type[Any]]:
    """Every struct of updates ("t") or ephemerals ("type"), by its tag."""
    found = {}
    for struct in Outgoing.__subclasses__():
        config = struct.__struct_config__
        if config.tag_field == tag_field and (tag_field == "type" or struct.__name__.endswith("Update")):
            found[str(config.tag)] = struct
    return dict(sorted(found.items()))


def _event(on: EventHandler, shapes: _Shapes) -> Schema:
    event: Schema = {"summary": _first_line(on.handler)}
    if on.data is not None or on.like is not None:
        event["data"] = shapes.of(on.data or on.like)
    if on.ack is not None:
        event["ack"] = shapes.of(on.ack)
    return event


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


# ------------------------------------------------------------------------------------- one operation
def _operation(route: Route, path: str, shapes: _Shapes, summary: str) -> Schema:
    module = route.endpoint.__module__.removeprefix("happy_light.").removeprefix("domains.").partition(".")[0]
    operation: Schema = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {path}")),
        "tags": [module],
        "security": [] if route.public else [{"token": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "responses": _responses(route, shapes),
    }
    if summary:
        operation["summary"] = summary
    if route.query is not None:
        fields = shapes.components[shapes.name(route.query)]
        operation["parameters"] += [
            {"name": name, "in": "query", "required": name in fields["required"], "schema": schema}
            for name, schema in fields["properties"].items()
        ]
    if route.body is not None:
        needed = not route.streams or bool(shapes.components[shapes.name(route.body)]["required"])
        operation["requestBody"] = {
            "required": needed,
            "content": {"application/json": {"schema": shapes.of(route.body)}},
        }
    elif route.method == "PUT":
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return operation


def _responses(route: Route, shapes: _Shapes) -> Schema:
    """By status: what a 200 carries, each refusal with its text, and what can go wrong with any request."""
    choices: dict[int, list[Schema]] = {}
    texts: dict[int, list[str]] = {}

    def failing(status: int, text: str) -> None:
        choices.setdefault(status, []).append({"$ref": _REF + "Failure"})
        texts.setdefault(status, []).append(text)

    said: dict[int, list[str]] = {}
    errors = list(route.errors)
    if not route.public:
        errors += [MISSING_AUTHORIZATION, INVALID_TOKEN]
    for refusal in errors:
        said.setdefault(refusal.status, []).append(refusal.error)
    for status, said_texts in said.items():
        texts[status] = list(dict.fromkeys(said_texts))
        error = {"type": "string", "enum": list(texts[status])}
        choices[status] = [{"type": "object", "properties": {"error": error}, "required": ["error"]}]
    reads = route.body is not None or route.method in ("POST", "PUT")
    if reads or route.query is not None:
        failing(400, "The request does not fit")
    if reads:
        failing(415, "The body is of another type")
        for status, text in _READING.items():
            failing(status, text)
    for status, text in _EVERY.items():
        failing(status, text)
    for status, kind in route.other_responses.items():
        texts.setdefault(status, []).append(HTTPStatus(status).phrase if kind is None else _about(kind))
        if kind is not None:
            choices.setdefault(status, []).append(shapes.of(kind))
    responses: Schema = {}
    if route.answer is not None:
        responses["200"] = {"description": _about(route.answer), "content": _content(route, shapes)}
    for status in sorted(texts):
        response: Schema = {"description": "; ".join(dict.fromkeys(texts[status]))}
        if status in choices:
            each = choices[status]
            schema = each[0] if len(each) == 1 else {"anyOf": each}
            response["content"] = {"application/json": {"schema": schema}}
        responses[str(status)] = response
    return responses


def _content(route: Route, shapes: _Shapes) -> Schema:
    """The 200's body by content type: Annotated[str, "text/html"] names it, else the type tells."""
    kind = route.answer
    if get_origin(kind) is Annotated:
        plain, *content_types = get_args(kind)
        schema = {"type": "string"} if plain is str else shapes.of(plain)
        return {key: {"schema": schema} for key in content_types}
    if kind is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    if kind is bytes:
        return {"*/*" if route.path.endswith("*") else "application/octet-stream": {}}
    return {"application/json": {"schema": shapes.of(kind)}}


def _about(kind: Any) -> str:
    """The first line of a struct's docstring, else "OK"."""
    lines = [_first_line(part) for part in _parts(kind) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    return " / ".join(lines) or "OK"

"""The description of the server as one HTML page, grouped by domain."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, Final

from happy_light import json_codec
from happy_light.ui import look

Schema = Mapping[str, Any]

_COMMON: Final = ("408", "413", "415", "500", "503")  # statuses of any route, which are named once
_LIMITS: Final = (("minimum", "from"), ("minLength", "of length"), ("maximum", "to"), ("maxLength", "to"))
_SENT: Final = {
    "client": "clients send it",
    "server": "the server sends it",
    "update": "update: the server sends it",
    "ephemeral": "ephemeral: the server sends it",
}


def render(document: Schema) -> str:
    """Return an OpenAPI document of this server as one HTML page without other files."""
    title = f"{document['info']['title']} {document['info']['version']}"
    entries: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            entries[operation["tags"][0]].append(_route(method, path, operation))
    for kind, events in document["x-socket"].items():
        for name, event in events.items():
            entries[event["tags"][0]].append(_event(kind, name, event))
    groups = [
        (tag["name"], *_heading(tag["description"]), entries[tag["name"]])
        for tag in document["tags"]
        if entries[tag["name"]]
    ]
    contents = [(f"group-{name}", heading) for name, heading, _, _ in groups] + [("shapes", "Shapes")]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">Every route and every socket event of this server, and the shapes of their data.</p>'
        f"<p>{_prose(document['info']['description'])} Any route may also answer {', '.join(_COMMON)}. "
        'The same for programs: <a href="/openapi.json">openapi.json</a>. <a href="/">Start page</a></p>',
        '<nav aria-label="Contents"><ul>',
        *(f'<li><a href="#{anchor}">{html.escape(heading)}</a></li>' for anchor, heading in contents),
        "</ul></nav>",
    ]
    for name, heading, about, articles in groups:
        parts += [_section(f"group-{name}", heading, about), *articles, "</section>"]
    parts += [_section("shapes", "Shapes", "What the routes and events above name. `?`: may be absent.")]
    parts += [*_shapes(document["components"]["schemas"]), "</section>"]
    return look.page(title, "\n".join(parts), style())


def style() -> str:
    """Return the style of this page, beside what all pages have."""
    return look.read("docs.css")


def _heading(description: str) -> tuple[str, str]:
    """Return the name of a group and a sentence about it: `Machines: computers with a daemon` has both."""
    name, _, about = description.partition(": ")
    return name.rstrip("."), about[:1].upper() + about[1:]


def _section(anchor: str, heading: str, about: str) -> str:
    text = f"<p>{_prose(about)}</p>" if about else ""
    return f'<section id="{anchor}"><h2><a href="#{anchor}">{html.escape(heading)}</a></h2>{text}'


def _route(method: str, path: str, operation: Schema) -> str:
    rows = {
        "Query": "<br>".join(
            f"{_code(field['name'] + ('' if field['required'] else '?'))}: {_schema(field['schema'])}"
            for field in operation["parameters"]
            if field["in"] == "query"
        ),
        "Request": "<br>".join(_contents(operation.get("requestBody", {}))),
        "Answer": "<br>".join(_contents(operation["responses"].get("200", {}))),
        "Other answers": "<br>".join(
            f"{status} {html.escape(response['description'])}"
            for status, response in operation["responses"].items()
            if status != "200" and status not in _COMMON
        ),
    }
    remark = "without a token" if not operation["security"] and "admin" not in operation["tags"] else ""
    return _article(operation["operationId"], f"{method.upper()} {path}", remark, operation.get("summary", ""), rows)


def _contents(body: Schema) -> Iterator[str]:
    for kind, content in body.get("content", {}).items():
        yield _schema(content.get("schema")) if kind.endswith("json") else html.escape(kind.replace("*/*", "the file"))


def _event(kind: str, name: str, event: Schema) -> str:
    rows = {"Data": _schema(event.get("data")), "Ack": _schema(event.get("ack"))}
    return _article(f"{kind}-{name}", name, _SENT[kind], event["summary"], rows)


def _article(anchor: str, name: str, remark: str, summary: str, rows: Mapping[str, str]) -> str:
    tag = f'<span class="tag">{html.escape(remark)}</span>' if remark else ""
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in rows.items() if value)
    return (
        f'<article id="{html.escape(anchor)}"><h3><a href="#{html.escape(anchor)}">{_code(name)}</a>{tag}</h3>'
        + (f"<p>{_prose(summary)}</p>" if summary else "")
        + (f"<dl>{cells}</dl>" if cells else "")
        + "</article>"
    )


def _shapes(components: Schema) -> Iterator[str]:
    for name, schema in sorted(components.items()):
        required = schema.get("required", ())
        rows = {
            _code(field + ("" if field in required else "?")): _schema(kind)
            for field, kind in schema.get("properties", {}).items()
        }
        yield _article(name, name, "", schema.get("description", ""), rows)


def _schema(schema: Schema | None) -> str:
    """Return a schema in a few words; structs are links to their entries at the end of the page."""
    if not schema:
        return "" if schema is None else "anything"
    match schema:
        case {"$ref": ref}:
            name = html.escape(ref.rpartition("/")[2])
            return f'<a href="#{name}"><code>{name}</code></a>'
        case {"anyOf": choices}:
            return " or ".join(_schema(choice) for choice in choices)
        case {"enum": values}:
            return " or ".join(_code(json_codec.encode(value).decode()) for value in values)
        case {"type": "array"}:
            return "list of " + (_schema(schema.get("items", {})))
        case {"type": "object", "additionalProperties": dict(values)}:
            return "map of " + _schema(values)
        case {"contentEncoding": encoding}:
            return html.escape(encoding)
        case {"type": kind}:
            limits = [f"{word} {schema[key]}" for key, word in _LIMITS if abs(schema.get(key, 2**53)) < 2**53]
            return html.escape(" ".join([kind, *limits]))
    return "anything"


def _prose(text: str) -> str:
    """Return HTML of a text in which `backticks` mark code."""
    return "".join(_code(part) if place % 2 else html.escape(part) for place, part in enumerate(text.split("`")))


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"

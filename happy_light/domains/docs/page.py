"""The description of the server as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from happy_light import json_codec

Schema = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { border-bottom: 1px solid #8884; padding: .4rem .6rem; text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: Canvas; }
td:first-child, th:first-child { width: 36%; padding-left: 0; }
td { overflow-wrap: anywhere; }
code { font: 13px/1.5 ui-monospace, monospace; }
small { display: block; font-size: 13px; opacity: .7; }
tr:target { background: #fe84; }
"""
_COMMON = ("408", "413", "415", "500", "503")  # statuses of any route, which are named once
_LIMITS = (("minimum", "from"), ("minLength", "of length"), ("maximum", "to"), ("maxLength", "to"))


def render(document: Schema) -> str:
    """Return an OpenAPI document of this server as one HTML page without other files."""
    socket = document["x-socket"]
    title = f"{document['info']['title']} {document['info']['version']}"
    routes = [
        _route(method, path, operation)
        for path, operations in sorted(document["paths"].items())
        for method, operation in operations.items()
    ]
    client = [
        [_named(_code(name), event["summary"]), _schema(event.get("data")), _schema(event.get("ack"))]
        for name, event in socket["client"].items()
    ]
    server = [[_code(name), _schema(schema)] for name, schema in socket["server"].items()]
    for event in ("update", "ephemeral"):
        server += [[f"{_code(event)} {_code(name)}", _schema(schema)] for name, schema in socket[event].items()]
    parts = [
        f"<h1>{escape(title)}</h1><p>{_prose(document['info']['description'])} Any route may also answer ",
        f'{", ".join(_COMMON)}. As OpenAPI 3.1: <a href="openapi.json">openapi.json</a>.</p>',
        "<h2>HTTP</h2>",
        _table(["Route", "Request", "Response", "Errors"], routes),
        "<h2>Socket.IO: what clients send</h2>",
        _table(["Event", "Data", "Ack"], client),
        "<h2>Socket.IO: what the server sends</h2>",
        _table(["Event", "Data"], server),
        "<h2>Schemas</h2>",
        _schemas(document["components"]["schemas"]),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _route(method: str, path: str, operation: Schema) -> list[str]:
    descriptions = [operation.get("summary", "")]
    if "admin" in operation["tags"]:
        descriptions.insert(0, "admin")
    elif not operation["security"] and "public" not in descriptions[0]:
        descriptions.insert(0, "public")
    parameters = [
        _code(field["name"] + ("" if field["required"] else "?")) + ": " + _schema(field["schema"])
        for field in operation["parameters"]
        if field["in"] == "query"
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parameters.append(_schema(content.get("schema")) or escape(kind))
    responses = [
        _schema(content.get("schema")) if kind.endswith("json") else escape(kind)
        for kind, content in operation["responses"].get("200", {"content": {}})["content"].items()
    ]
    errors = [
        f"{status} {escape(response['description'])}"
        for status, response in operation["responses"].items()
        if status != "200" and status not in _COMMON
    ]
    name = _named(_code(f"{method.upper()} {path}"), "; ".join(filter(None, descriptions)))
    return [name, *("<br>".join(cell) for cell in (parameters, responses, errors))]


def _schemas(components: Schema) -> str:
    rows = []
    for name, schema in sorted(components.items()):
        required = schema.get("required", ())
        fields = [
            f"{_code(field + ('' if field in required else '?'))}: {_schema(kind)}"
            for field, kind in schema.get("properties", {}).items()
        ]
        rows.append(f'<tr id="{escape(name)}"><td>{_named(_code(name), schema.get("description", ""))}</td>')
        rows.append(f"<td>{'<br>'.join(fields)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _schema(schema: Schema | None) -> str:
    """Return a schema in a few words; structs are links to their rows at the end of the page."""
    if not schema:
        return "" if schema is None else "anything"
    match schema:
        case {"$ref": ref}:
            name = escape(ref.rpartition("/")[2])
            return f'<a href="#{name}"><code>{name.rpartition(".")[2]}</code></a>'
        case {"anyOf": choices}:
            return " or ".join(_schema(choice) for choice in choices)
        case {"enum": values}:
            return " or ".join(_code(json_codec.encode(value).decode()) for value in values)
        case {"type": "array"}:
            return "list of " + (_schema(schema.get("items", {})))
        case {"type": "object", "additionalProperties": dict(values)}:
            return "map of " + _schema(values)
        case {"contentEncoding": encoding}:
            return escape(encoding)
        case {"type": kind}:
            limits = [f"{word} {schema[key]}" for key, word in _LIMITS if abs(schema.get(key, 2**53)) < 2**53]
            return escape(" ".join([kind, *limits]))
    return "anything"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _named(name: str, description: str) -> str:
    """Return the first cell of a row: a name, and on a line below what it is for."""
    return f"{name}<small>{_prose(description)}</small>" if description else name


def _prose(text: str) -> str:
    """Return HTML of a text in which `backticks` mark code."""
    return "".join(_code(part) if place % 2 else escape(part) for place, part in enumerate(text.split("`")))


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"

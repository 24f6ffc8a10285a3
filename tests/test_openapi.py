"""The server's description of itself: complete, true, and on one page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from happy_light import app
from tests.client import World
from tests.conftest import Process

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 2  # requests of each kind and operation: some 300 in all
BROKEN = "An unexpected error occurred"


async def document(world: World) -> Any:
    answer = await world.http.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    return answer.json()


async def test_no_route_and_no_event_is_missing(world: World) -> None:
    described = await document(world)
    assert described["openapi"].startswith("3.1")
    paths = {
        f"{method.upper()} {path.replace('{', ':').replace('}', '')}"
        for path, operations in described["paths"].items()
        for method in operations
    }
    live = {f"{route.method} {route.path.replace('*', ':path')}" for route in [*app.routes(), *app.admin_routes()]}
    assert paths == live - {"GET /v1/kv/", "GET /admin/"}  # GET /v1/kv/:key for an empty key, and a redirection
    assert described["x-socket"]["client"].keys() == app.events().keys()
    ids = [operation["operationId"] for operations in described["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


async def test_every_reference_leads_somewhere(world: World) -> None:
    described = await document(world)
    text = json.dumps(described)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names and names <= described["components"]["schemas"].keys()
    assert "happy_light" not in text
    descriptions = [schema.get("description", "") for schema in described["components"]["schemas"].values()]
    assert not any("\n" in description for description in descriptions), "remarks for readers of the code are left out"


async def test_refusals_and_shapes_are_those_of_the_tables(world: World) -> None:
    described = await document(world)
    operation = described["paths"]["/v1/friends/add"]["post"]
    assert operation["security"] == [{"token": []}]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Person")
    assert operation["responses"].keys() == {"200", "400", "401", "408", "413", "415", "500", "503"}
    unauthorized = operation["responses"]["401"]["content"]["application/json"]["schema"]
    assert unauthorized["properties"]["error"]["enum"] == ["Missing authorization header", "Invalid token"]
    assert described["components"]["schemas"]["Person"] == {
        "description": "The body of POST /v1/friends/add and /v1/friends/remove: an account id.",
        "type": "object", "properties": {"uid": {"type": "string"}}, "required": ["uid"],
    }  # fmt: skip
    user = described["components"]["schemas"]["User"]
    assert set(user["required"]) == user["properties"].keys()
    page = described["paths"]["/v1/feed"]["get"]["parameters"]
    assert [(field["name"], field["in"], field["required"]) for field in page] == [
        ("before", "query", False), ("after", "query", False), ("limit", "query", False),
    ]  # fmt: skip
    health = described["paths"]["/health"]["get"]
    assert health["security"] == [] and "401" not in health["responses"] and "503" in health["responses"]


async def test_the_page_shows_all_of_it_and_needs_nothing_else(world: World) -> None:
    described = await document(world)
    answer = await world.http.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path, operations in described["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    for events in described["x-socket"].values():
        for name in events:
            assert f"<code>{name}</code>" in answer.text
    assert not re.search(r"""(src|href)=["']?(https?:)?//|<script|@import|url\(""", answer.text)
    links = set(re.findall(r'href="#([^"]+)"', answer.text))
    assert links and links <= set(re.findall(r'id="([^"]+)"', answer.text))
    again = await world.http.head("/docs", headers={"accept-encoding": "identity"})
    assert again.headers["content-length"] == str(len(answer.content))


@pytest.mark.slow
def test_the_server_does_what_the_document_says(server: Process) -> None:
    """schemathesis asks every operation for what fits and for what does not, with a token."""

    async def prepare() -> tuple[Any, str, dict[str, str]]:
        async with World(server.url) as world:
            alice = await world.account()
            session, machine = await alice.session(), await alice.machine()
            ids = {"sessions": session["id"], "machines": machine["id"], "user": alice.id}
            return await document(world), alice.token, ids

    described, token, ids = asyncio.run(prepare())
    told = json.dumps(described).replace('"contentEncoding": "base64"', '"format": "byte"')  # what it can make
    load_all_checks()
    schema = schemathesis.openapi.from_dict(json.loads(told))
    public = schema.exclude(tag="admin")  # not on the public port
    schema.config.update(base_url=server.url)
    answered: dict[str, set[int]] = {}
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        for result in public.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @hypothesis.settings(
                    max_examples=EXAMPLES, database=None, deadline=None, derandomize=True,
                    suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
                )  # fmt: skip
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: Any) -> None:
                    kind = case.operation.path.split("/")[2:3]
                    if case.method != "DELETE" and kind and kind[0] in ids and "id" in (case.path_parameters or {}):
                        case.path_parameters["id"] = ids[kind[0]]
                    response = case.call(session=session, timeout=20, allow_redirects=False)
                    answered.setdefault(case.operation.label, set()).add(response.status_code)
                    case.validate_response(response, checks=CHECKS)
                    assert response.status_code != 503 and BROKEN not in response.text

                with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing about it can be wrong
                    ask()
    labels = {
        f"{method.upper()} {path}"
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if "admin" not in operation["tags"]
    }
    assert answered.keys() == labels
    assert len([label for label, statuses in answered.items() if 200 in statuses]) > len(labels) / 2

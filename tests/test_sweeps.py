"""What holds for every route and every event there is, whoever adds one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from happy_light import app
from happy_light.http.router import Route
from tests.client import World

ROUTES = app.routes()
EVENTS = sorted(app.events())
WRONG = [b"5", b'"x"', b"[]", b"null", b"true", b"{}", b"[[]]", b'{"x":1}', b"{", b"\xff"]


def path_of(route: Route, value: str = "x") -> str:
    """Return a path of the route, with something in every parameter."""
    return "/".join(value if part.startswith((":", "*")) else part for part in route.path.split("/"))


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.public], ids=lambda r: f"{r.method} {r.path}")
async def test_nobody_gets_in_without_a_good_token(world: World, route: Route) -> None:
    for headers, error in (
        ({}, "Missing authorization header"),
        ({"Authorization": "Bearer x"}, "Invalid token"),
    ):
        response = await world.http.request(route.method, path_of(route), headers=headers, content=b"{")
        assert (response.status_code, response.json()) == (401, {"error": error})


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
async def test_no_body_and_no_parameter_makes_a_500(world: World, route: Route) -> None:
    alice = await world.account()
    headers = {"Content-Type": "application/json"}
    known = {refusal.status for refusal in route.errors}
    for body in WRONG if route.method in ("POST", "PUT", "PATCH") else [b""]:
        response = await alice.request(route.method, path_of(route), content=body, headers=headers)
        assert response.status_code < 500 or response.status_code in known, (body, response.text[:300])
        if route.body is not None and body in (b"5", b'"x"', b"null", b"true", b"{", b"\xff"):
            assert response.status_code in {400} | known, (body, response.status_code)
    fields = list(getattr(route.body, "__struct_encode_fields__", ()))
    values: list[Any] = [5, "x", None, [], {}, True, -1, 2**70, "\x00", ["\ud7ff"], [{}]]
    for value in values:
        if fields:
            response = await alice.request(route.method, path_of(route), json=dict.fromkeys(fields, value))
            assert response.status_code < 500 or response.status_code in known, (value, response.text[:300])
    for value in ("%00", "%ff", "..%2f..%2fetc%2fpasswd", "x" * 1024, "-1", "%F0%9F%99%82"):
        response = await alice.request(route.method, path_of(route, value), headers=headers)
        assert response.status_code < 500 or response.status_code in known, (value, response.text[:300])
    for query in ("?limit=x", "?limit=-1", "?limit=", "?limit=1&limit=2", "?after=0-x", "?cursor=%00", "?%ff=%ff"):
        response = await alice.request(route.method, path_of(route) + query, headers=headers)
        assert response.status_code < 500 or response.status_code in known, (query, response.text[:300])


@pytest.mark.parametrize(
    "event",
    # A call of an unknown method waits for one to be registered.
    [pytest.param(event, marks=pytest.mark.slow if event == "rpc-call" else ()) for event in EVENTS],
)
async def test_every_event_acks_whatever_it_is_given(world: World, event: str) -> None:
    """The library sends no ack when a handler raises or takes another number of arguments."""
    alice = await world.account()
    ui = await alice.socket()
    struct: Any = app.events()[event].data
    names = list(getattr(struct, "__struct_encode_fields__", ())) or ["method", "sid", "machineId", "artifactId", "key"]
    payloads: list[tuple[Any, ...]] = [
        (), (None,), (5,), ("x",), ([],), ({},), (True,), (-1.5,), (b"binary",), ({"x": b"y"},), (None, 1, "x", [], {}),
        (dict.fromkeys(names, 5),), (dict.fromkeys(names),), (dict.fromkeys(names, "x"),),
        ({name: [] for name in names},), ({name: {} for name in names},), (dict.fromkeys(names, 2 ** 70),),
        (dict.fromkeys(names, "\x00\ud7ff"), "more"),
    ]  # fmt: skip
    calls = [ui.call(event, *payload, timeout=30) for payload in payloads]
    acks = await asyncio.gather(*calls)
    assert all(isinstance(ack, dict) for ack in acks), acks
    for payload in payloads:
        await ui.emit(event, *payload)
    assert await ui.call("ping") == {}

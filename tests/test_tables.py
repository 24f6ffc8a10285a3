"""What the server answers to, compared with lists written by hand: what is dropped by accident is noticed."""

from __future__ import annotations

from pathlib import Path

from happy_light import app

NOT_YET = "# not yet: "


def compare(name: str, live: set[str]) -> None:
    """Every line of the file is live, and what is live has a line; lines of `NOT_YET` may be either."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    named = {line for line in lines if line and not line.startswith("#")}
    planned = {line.removeprefix(NOT_YET) for line in lines if line.startswith(NOT_YET)}
    assert not named - live, f"dropped; if on purpose, take these lines out of tests/{name}"
    assert not live - named - planned, f"new; add these lines to tests/{name}"


def test_every_route_of_the_list_is_live_and_every_live_route_is_in_the_list() -> None:
    routes = [f"{route.method} {route.path}" for route in app.routes()]
    assert len(routes) == len(set(routes))
    compare("routes.txt", set(routes))


def test_every_event_of_the_list_is_live_and_every_live_event_is_in_the_list() -> None:
    socket = app.describe()["x-socket"]
    compare("events.txt", {f"{kind} {name}" for kind, names in socket.items() for name in names})

"""Reads that fail: the answer is a 503 or a 500 with its body, also when the check that follows an error fails too."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from happy_light.auth import authentication
from happy_light.domains import kv, messages
from happy_light.errors import KEY_NOT_FOUND, ApiError, ServiceUnavailable
from happy_light.server import Server
from tests.client import World

Inside = Callable[..., Awaitable[Server]]
UNEXPECTED = "An unexpected error occurred"
UNREADABLE = "The server cannot read its database"


def failing(error: Exception) -> Callable[..., Any]:
    """Return an operation that raises."""

    def operation(*_: Any) -> Any:
        raise error

    return operation


async def test_a_read_that_the_disk_refuses_is_503(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        await alice.ok("GET", "/v1/kv")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        monkeypatch.setattr(kv, "list_keys", failing(error))
        response = await alice.get("/v1/kv")
        assert response.status_code == 503 and UNREADABLE in response.text
        assert "database: disk I/O error" in caplog.text and "Traceback" not in caplog.text


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), RuntimeError("a fault")])
async def test_an_unexpected_error_is_answered_although_the_account_cannot_be_read(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        ui = await alice.socket()
        monkeypatch.setattr(kv, "list_keys", failing(ValueError("the first error")))
        monkeypatch.setattr(messages, "append", failing(ValueError("the first error")))
        monkeypatch.setattr(authentication, "_exists", failing(error))
        with caplog.at_level(logging.ERROR):
            response = await alice.get("/v1/kv")
        assert (response.status_code, response.json()["message"]) == (500, UNEXPECTED)
        assert "the first error" in caplog.text
        ack = await ui.call("message", {"sid": "x", "message": "m"})
        assert ack == {"ok": False, "error": "Internal error"}


async def test_a_refusal_is_503_while_nobody_can_tell_whether_the_account_is_still_signed_in(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()

        def refuse(*_: Any) -> Any:
            server.keys.tokens.forget(alice.id)  # as a sign-out does: tokens must be looked at again
            monkeypatch.setattr(authentication, "_accepts", failing(ServiceUnavailable("away")))
            raise ApiError(KEY_NOT_FOUND)

        monkeypatch.setattr(kv, "find_key", refuse)
        response = await alice.get("/v1/kv/x")
        assert (response.status_code, response.json()["message"]) == (503, "away")

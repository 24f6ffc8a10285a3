"""Calls from one device to another, through the server (protocol.md section 14).

    socket rpc-register, rpc-unregister, rpc-call, ping, app-state

A method belongs to an account and to the sockets that registered it. The server passes parameters and
results on as they are; it cannot read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from happy_light.clients import Answer, Client
from happy_light.context import ServerContext
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.wire import Incoming, NonEmptyStr, Ok, Outgoing

TIMEOUT = 30.0  # s that a target may take to answer
NAME_MAX = 1_024  # characters of a method

Reply = Callable[[Any], None]


# -------------------------------------------------------------------------------------------- wire
class RpcCall(Incoming):
    """`rpc-call`; params are passed on as they came, absent ones stay absent."""

    method: NonEmptyStr
    params: Any = msgspec.UNSET


class RpcRequest(Outgoing):
    """`rpc-request` to the target, with an ack."""

    method: str
    params: Any = msgspec.UNSET


class RpcResult(Outgoing):
    """Ack of `rpc-call`; an empty ack of the target leaves `result` out."""

    ok: Literal[True] = True
    result: Any = msgspec.UNSET


class Named(Incoming):
    """`rpc-register`, `rpc-unregister` and what answers them."""

    method: NonEmptyStr


class RpcError(Outgoing):
    """`rpc-error`: a method could not be registered or unregistered."""

    type: Literal["register", "unregister"]
    error: str


class AppState(Incoming):
    """`app-state`: everything but "active" counts as background."""

    state: str


# ----------------------------------------------------------------------------------------- sockets
def rpc_register(context: ServerContext, client: Client, data: Any) -> dict[str, Any]:
    method = _method(data)
    if method is None or not context.rpc.register(client, method):
        text = "Invalid method name" if method is None else "Too many methods"
        client.emit("rpc-error", RpcError("register", text))
        return ok_error(text)
    client.emit("rpc-registered", Named(method))
    return {"ok": True}


def rpc_unregister(context: ServerContext, client: Client, data: Any) -> dict[str, Any]:
    method = _method(data)
    if method is None:
        client.emit("rpc-error", RpcError("unregister", "Invalid method name"))
        return ok_error("Invalid method name")
    context.rpc.unregister(client, method)
    client.emit("rpc-unregistered", Named(method))
    return {"ok": True}


def _method(data: Any) -> str | None:
    method = data.get("method") if isinstance(data, dict) else None
    return method if isinstance(method, str) and 0 < len(method) <= NAME_MAX else None


def rpc_call(context: ServerContext, client: Client, data: Any, reply: Reply) -> None:
    """Passes the call on at once if somebody answers the method, else when one appears in time."""
    method = _method(data)
    if method is None:
        reply(ok_error("Invalid parameters: method is required"))
        return
    registry = context.rpc
    if not registry.begin(client.account_id):
        reply(ok_error("Too many calls are under way"))
        return
    request = RpcRequest(method, data.get("params", msgspec.UNSET))

    def end(outcome: str, answer: Any) -> None:
        registry.end(client.account_id)
        context.counters.call(outcome)
        reply(answer)

    def done(came: Answer) -> None:
        if came.ending == "answered":
            end("ok", RpcResult(result=came.args[0] if came.args else msgspec.UNSET))
        elif came.ending == "timeout":
            end("timeout", ok_error("operation has timed out"))
        else:
            end("disconnected", ok_error("RPC target disconnected"))

    def pass_on(target: Client | None) -> None:
        if target is None:
            end("not_available", ok_error("RPC method not available"))
        elif target is client:
            end("same_socket", ok_error("Cannot call RPC on the same socket"))
        else:
            target.call("rpc-request", request, TIMEOUT, done)

    target = registry.target(client, method)
    if target is not None:
        pass_on(target)
    else:
        registry.await_target(client, method, pass_on)


def ping(context: ServerContext, client: Client, data: Any) -> dict[str, Any]:
    """The CLI waits for this ack before it exits."""
    return {}


def app_state(context: ServerContext, client: Client, data: Any) -> dict[str, Any]:
    """Whether somebody looks at this client: pushes are left out then."""
    state = data.get("state") if isinstance(data, dict) else None
    client.app_state = "active" if state == "active" else "background"
    return {"ok": True}


def disconnected(context: ServerContext, client: Client, reason: str) -> None:
    """Hook of the live edge."""
    context.rpc.gone(client)


emits = {"rpc-registered": Named, "rpc-unregistered": Named, "rpc-error": RpcError, "rpc-request": RpcRequest}
events = {
    "rpc-register": EventHandler(rpc_register, ok_error, None, Ok, like=Named),
    "rpc-unregister": EventHandler(rpc_unregister, ok_error, None, Ok, like=Named),
    "rpc-call": EventHandler(rpc_call, ok_error, None, RpcResult, like=RpcCall, replies=True),
    "ping": EventHandler(ping, ok_error, None),
    "app-state": EventHandler(app_state, ok_error, None, Ok, like=AppState),
}

"""Calls: from one device to another, through the server (docs/protocol.md, section 14).

    socket rpc-register, rpc-unregister, rpc-call

A method belongs to an account and to the sockets that registered it. The server passes parameters and
results on as they are; it cannot read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Literal

import msgspec

from happy_light.clients import CallFailed, Client, DisconnectReason
from happy_light.context import ServerContext
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.wire import Incoming, NonEmptyStr, Ok, Outgoing

METHOD_MAX = 1_024  # characters of a method


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
    """Data of `rpc-register` and `rpc-unregister`."""

    method: NonEmptyStr


class Registered(Outgoing):
    """`rpc-registered`: calls of the method reach this socket from now on."""

    method: str


class Unregistered(Outgoing):
    """`rpc-unregistered`: calls of the method no longer reach this socket."""

    method: str


class RpcError(Outgoing):
    """`rpc-error`: a method could not be registered or unregistered."""

    type: Literal["register", "unregister"]
    error: str


# ----------------------------------------------------------------------------------------- sockets
def rpc_register(context: ServerContext, client: Client, data: Any) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Let the client answer a method."""
    method = _method(data)
    if method is None or not context.rpc.register(client.account_id, client.sid, method):
        text = "Invalid method name" if method is None else "Too many methods"
        client.emit("rpc-error", RpcError("register", text))
        return ok_error(text)
    return context.clients.after_change(client, partial(_confirm, client, "rpc-registered", Registered(method)))


def rpc_unregister(context: ServerContext, client: Client, data: Any) -> dict[str, Any] | Awaitable[dict[str, Any]]:
    """Let the client no longer answer a method."""
    method = _method(data)
    if method is None:
        client.emit("rpc-error", RpcError("unregister", "Invalid method name"))
        return ok_error("Invalid method name")
    context.rpc.unregister(client.account_id, client.sid, method)
    return context.clients.after_change(client, partial(_confirm, client, "rpc-unregistered", Unregistered(method)))


def _confirm(client: Client, event: str, change: Registered | Unregistered) -> dict[str, Any]:
    client.emit(event, change)
    return {"ok": True}


def rpc_call(context: ServerContext, client: Client, data: Any) -> asyncio.Future[RpcResult] | dict[str, Any]:
    """Pass a call on to the socket that answers its method, at once or when one registers in time."""
    method = _method(data)
    if method is None:
        return ok_error("Invalid parameters: method is required")
    if not context.rpc.begin_call(client.account_id):
        return ok_error("Too many calls are under way")
    request = RpcRequest(method, data.get("params", msgspec.UNSET))
    target = context.rpc.target(client.account_id, method, client.sid)
    if target is None:
        result: asyncio.Future[RpcResult] = asyncio.ensure_future(_call_when_registered(context, client, request))
    else:
        result = _call(context, client, target, request)
    result.add_done_callback(partial(_count_end, context, client.account_id))
    return result


async def _call_when_registered(context: ServerContext, client: Client, request: RpcRequest) -> RpcResult:
    target = await context.rpc.wait_for_target(client.account_id, request.method, client.sid)
    if target is None or client.gone:
        raise CallFailed("not_available", "RPC method not available")
    return await _call(context, client, target, request)


def _call(context: ServerContext, client: Client, target: str, request: RpcRequest) -> asyncio.Future[RpcResult]:
    """Send the request to its target; the future raises CallFailed as `ClientDirectory.call` has it."""
    if target == client.sid:
        own: asyncio.Future[RpcResult] = asyncio.get_running_loop().create_future()
        own.set_exception(CallFailed("same_socket", "Cannot call RPC on the same socket"))
        return own
    return context.clients.call(client.account_id, target, "rpc-request", request, _result)


def _result(arguments: list[Any]) -> RpcResult:
    return RpcResult(result=arguments[0] if arguments else msgspec.UNSET)


def _count_end(context: ServerContext, account_id: str, result: asyncio.Future[RpcResult]) -> None:
    context.rpc.end_call(account_id)
    error = None if result.cancelled() else result.exception()
    context.counters.call(error.outcome if isinstance(error, CallFailed) else "ok")


def _method(data: Any) -> str | None:
    method = data.get("method") if isinstance(data, dict) else None
    return method if isinstance(method, str) and 0 < len(method) <= METHOD_MAX else None


def disconnected(context: ServerContext, client: Client, reason: DisconnectReason) -> None:
    """Forget the methods of a socket that is gone."""
    context.rpc.forget(client.sid)


emits = {
    "rpc-registered": Registered,
    "rpc-unregistered": Unregistered,
    "rpc-error": RpcError,
    "rpc-request": RpcRequest,
}
events = {
    "rpc-register": EventHandler(rpc_register, ok_error, None, Ok, like=Named),
    "rpc-unregister": EventHandler(rpc_unregister, ok_error, None, Ok, like=Named),
    "rpc-call": EventHandler(rpc_call, ok_error, None, RpcResult, like=RpcCall, limited=False),
}

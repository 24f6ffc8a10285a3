"""Calls from one device to another, through the server (protocol.md section 14).

    socket rpc-register, rpc-unregister, rpc-call, ping, app-state

A method belongs to an account and to the sockets that registered it. The server passes parameters and
results on as they are; it cannot read them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec

from happy_light.house import House
from happy_light.live import On
from happy_light.rooms import Answer, Peer
from happy_light.wire import In, Ok, Out, Text1

APPEAR = 15.0  # s that a caller waits for a target to register (a daemon that reconnects)
SETTLE = 0.05  # s that a target which just (re)appeared gets to register the rest of its methods
TIMEOUT = 30.0  # s that a target may take to answer
METHODS_MAX = 1_000  # methods that one socket may register
CALLS_MAX = 1_000  # calls under way for one account

_ENDINGS = {
    "operation has timed out": "timeout",
    "RPC target disconnected": "disconnected",
    "Cannot call RPC on the same socket": "same_socket",
}
"""What the statistics call them."""

Key = tuple[str, str]
"""(account id, method)"""


# -------------------------------------------------------------------------------------------- wire
class RpcCall(In):
    """`rpc-call`; params are passed on as they came, absent ones stay absent."""

    method: Text1
    params: Any = msgspec.UNSET


class RpcRequest(Out):
    """`rpc-request` to the target, with an ack."""

    method: str
    params: Any = msgspec.UNSET


class RpcResult(Out):
    """Ack of `rpc-call`; an empty ack of the target leaves `result` out."""

    ok: Literal[True] = True
    result: Any = msgspec.UNSET


class Named(In):
    """`rpc-register`, `rpc-unregister` and what answers them."""

    method: Text1


class RpcError(Out):
    """`rpc-error`: a method could not be registered or unregistered."""

    type: Literal["register", "unregister"]
    error: str


class AppState(In):
    """`app-state`: everything but "active" counts as background."""

    state: str


# ---------------------------------------------------------------------------------------- memory
class Registry:
    """Who answers which method, and who waits for somebody who does."""

    def __init__(self, house: House) -> None:
        self._methods: dict[Key, dict[Peer, None]] = {}
        self._of: dict[Peer, set[str]] = {}
        self._waiting: dict[Key, dict[asyncio.Future[None], None]] = {}
        self._calls: dict[str, int] = {}

    def register(self, peer: Peer, method: str) -> bool:
        """From now on `peer` answers, before older ones; whoever waited is woken. False: too many."""
        mine = self._of.setdefault(peer, set())
        if len(mine) >= METHODS_MAX and method not in mine:
            return False
        mine.add(method)
        key = (peer.account_id, method)
        peers = self._methods.setdefault(key, {})
        peers.pop(peer, None)
        peers[peer] = None
        for future in self._waiting.get(key, ()):
            if not future.done():
                future.set_result(None)
        return True

    def unregister(self, peer: Peer, method: str) -> None:
        """`peer` no longer answers; others of the same method stay."""
        self._of.get(peer, set()).discard(method)
        key = (peer.account_id, method)
        peers = self._methods.get(key)
        if peers is not None:
            peers.pop(peer, None)
            if not peers:
                del self._methods[key]

    def gone(self, peer: Peer) -> None:
        """Its socket ended."""
        for method in self._of.pop(peer, ()):
            key = (peer.account_id, method)
            peers = self._methods.get(key)
            if peers is not None:
                peers.pop(peer, None)
                if not peers:
                    del self._methods[key]

    def target(self, caller: Peer, method: str) -> Peer | None:
        """The newest living socket that answers; the caller itself only if nobody else does."""
        peers = self._methods.get((caller.account_id, method), {})
        for peer in reversed(peers):
            if peer is not caller and not peer.gone:
                return peer
        return caller if caller in peers else None

    async def appear(self, caller: Peer, method: str) -> Peer | None:
        """Waits for a target to register."""
        key = (caller.account_id, method)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[future] = None
        try:
            async with asyncio.timeout(APPEAR):
                await future
            await asyncio.sleep(SETTLE)
        except TimeoutError:
            return None
        finally:
            del self._waiting[key][future]
            if not self._waiting[key]:
                del self._waiting[key]
        return self.target(caller, method)

    def begin(self, account_id: str) -> bool:
        """Counts a call; False if the account has too many under way."""
        count = self._calls.get(account_id, 0)
        if count >= CALLS_MAX:
            return False
        self._calls[account_id] = count + 1
        return True

    def end(self, account_id: str) -> None:
        """The call is over."""
        count = self._calls[account_id] - 1
        if count:
            self._calls[account_id] = count
        else:
            del self._calls[account_id]


# ----------------------------------------------------------------------------------------- sockets
def rpc_register(peer: Peer, data: Any) -> dict[str, Any]:
    method = _method(data)
    if method is None or not peer.house.get(Registry).register(peer, method):
        text = "Invalid method name" if method is None else "Too many methods"
        peer.emit("rpc-error", RpcError("register", text))
        return refuse(text)
    peer.emit("rpc-registered", Named(method))
    return {"ok": True}


def rpc_unregister(peer: Peer, data: Any) -> dict[str, Any]:
    method = _method(data)
    if method is None:
        peer.emit("rpc-error", RpcError("unregister", "Invalid method name"))
        return refuse("Invalid method name")
    peer.house.get(Registry).unregister(peer, method)
    peer.emit("rpc-unregistered", Named(method))
    return {"ok": True}


def _method(data: Any) -> str | None:
    method = data.get("method") if isinstance(data, dict) else None
    return method if isinstance(method, str) and method else None


def rpc_call(peer: Peer, data: Any) -> Any:
    """Passes the call on at once if somebody answers the method, else waits for one to appear."""
    if _method(data) is None:
        return refuse("Invalid parameters: method is required")
    call = msgspec.convert(data, RpcCall)
    registry = peer.house.get(Registry)
    if not registry.begin(peer.account_id):
        return refuse("Too many calls are under way")
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.add_done_callback(lambda _: registry.end(peer.account_id))
    answer.add_done_callback(lambda _: peer.house.counters.call(_ending(answer)))
    target = registry.target(peer, call.method)
    if target is not None:
        _pass_on(peer, target, call, answer)
        return answer
    return _call_later(registry, peer, call, answer)


async def _call_later(registry: Registry, peer: Peer, call: RpcCall, answer: asyncio.Future[Any]) -> Any:
    try:
        target = await registry.appear(peer, call.method)
        if target is None:
            return refuse("RPC method not available")
        _pass_on(peer, target, call, answer)
        return await answer
    finally:
        answer.cancel()


def _pass_on(caller: Peer, target: Peer, call: RpcCall, answer: asyncio.Future[Any]) -> None:
    if target is caller:
        answer.set_result(refuse("Cannot call RPC on the same socket"))
        return

    def done(came: Answer) -> None:
        if answer.done():
            return
        match came.ending:
            case "answered":
                answer.set_result(RpcResult(result=came.args[0] if came.args else msgspec.UNSET))
            case "timeout":
                answer.set_result(refuse("operation has timed out"))
            case "gone":
                answer.set_result(refuse("RPC target disconnected"))

    target.call("rpc-request", RpcRequest(call.method, call.params), TIMEOUT, done)


def _ending(answer: asyncio.Future[Any]) -> str:
    """What a finished call counts as."""
    if answer.cancelled():
        return "not_available"
    return "ok" if isinstance(answer.result(), RpcResult) else _ENDINGS.get(answer.result()["error"], "error")


def ping(peer: Peer, data: Any) -> dict[str, Any]:
    """The CLI waits for this ack before it exits."""
    return {}


def app_state(peer: Peer, data: Any) -> dict[str, Any]:
    """Whether somebody looks at this client: pushes are left out then."""
    state = data.get("state") if isinstance(data, dict) else None
    peer.app_state = "active" if state == "active" else "background"
    return {"ok": True}


def refuse(text: str) -> dict[str, Any]:
    """The ack that says no."""
    return {"ok": False, "error": text}


def disconnected(peer: Peer, reason: str) -> None:
    """Hook of the live edge."""
    peer.house.get(Registry).gone(peer)


says = {"rpc-registered": Named, "rpc-unregistered": Named, "rpc-error": RpcError, "rpc-request": RpcRequest}
events = {
    "rpc-register": On(rpc_register, refuse, None, Ok, like=Named),
    "rpc-unregister": On(rpc_unregister, refuse, None, Ok, like=Named),
    "rpc-call": On(rpc_call, refuse, None, RpcResult, like=RpcCall, patient=True),
    "ping": On(ping, refuse, None),
    "app-state": On(app_state, refuse, None, Ok, like=AppState),
}

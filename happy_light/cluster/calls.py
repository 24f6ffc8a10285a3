"""Calls of sockets in other processes: a request on the channel of their process, and its answer on ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from happy_light import json_codec
from happy_light.clients import CallFailed, ClientDirectory
from happy_light.clients.timeouts import Timeouts
from happy_light.cluster import messages
from happy_light.cluster.messages import Answer, Call, Names, RemoteClient
from happy_light.cluster.redis_link import RedisLink
from happy_light.cluster.redis_node import Replies
from happy_light.counters import Timing

log = logging.getLogger(__name__)

T = TypeVar("T")

CALLS_MAX: Final = 100_000  # of this process that wait for an answer


class _PendingCall:
    __slots__ = ("began", "convert", "future", "id", "process")

    def __init__(self, id: int, process: str, convert: Callable[[list[Any]], Any]) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.process = process
        self.convert = convert
        self.future: asyncio.Future[Any] = loop.create_future()
        self.began = loop.time()

    def fail(self, outcome: str, text: str) -> None:
        if not self.future.done():
            self.future.set_exception(CallFailed(outcome, text))


class RemoteCalls:
    """The calls from this process to sockets of others, and from others to its own."""

    def __init__(self, process: str, names: Names, link: RedisLink, directory: ClientDirectory) -> None:
        self._process = process
        self._names = names
        self._link = link
        self._directory = directory
        self._pending: dict[int, _PendingCall] = {}
        self._last_id = 0
        self._timeouts: Timeouts[_PendingCall] = Timeouts(directory.call_timeouts.seconds, self._expire)
        self.durations = Timing()
        """How long calls of sockets in other processes took that were answered."""

    # ------------------------------------------------------------------------------------ the caller
    def call(self, target: RemoteClient, event: str, data: Any, convert: Callable[[list[Any]], T]) -> asyncio.Future[T]:
        """Send an event to a socket; return the future of `convert(arguments of its ack)`. It raises CallFailed."""
        self._last_id += 1
        call = _PendingCall(self._last_id, target.process, convert)
        if not self._link.is_connected or len(self._pending) >= CALLS_MAX:
            call.fail("not_available", "RPC method not available")
            return call.future
        self._pending[call.id] = call
        self._timeouts.start(call)
        request = Call(call.id, self._process, target.account_id, target.sid, event, json_codec.encode(data))
        channel = self._names.process(target.process)
        sent = self._link.publish(channel, messages.encode(self._process, request))
        sent.add_done_callback(partial(self._sent, call.id))
        return call.future

    def _sent(self, id: int, sent: asyncio.Future[Replies | None]) -> None:
        """End a call whose request did not reach the process of its target, which may be connecting to Redis again."""
        replies = None if sent.cancelled() else sent.result()
        if replies is not None and isinstance(replies[0], int) and replies[0] > 0:
            return
        if (call := self._forget(id)) is None:
            return
        if replies is None:  # it may have arrived
            call.fail("disconnected", "RPC target disconnected")
        else:
            call.fail("not_available", "RPC method not available")

    def answered(self, answer: Answer) -> None:
        """End the call that another process has answered; ignore an answer that nobody waits for."""
        call = self._forget(answer.id)
        if call is None or call.future.done():
            return
        if answer.outcome != "ok":
            call.fail(answer.outcome, answer.text)
            return
        self.durations.add(asyncio.get_running_loop().time() - call.began)
        call.future.set_result(call.convert(json_codec.decode(answer.arguments)))

    def process_gone(self, process: str) -> None:
        """End the calls that a process will not answer any more."""
        for call in [call for call in self._pending.values() if call.process == process]:
            self._forget(call.id)
            call.fail("disconnected", "RPC target disconnected")

    def fail_all(self) -> None:
        """End all calls, because no answer can arrive."""
        for call in list(self._pending.values()):
            self._forget(call.id)
            call.fail("disconnected", "RPC target disconnected")

    def _expire(self, call: _PendingCall) -> None:
        self._forget(call.id)
        call.fail("timeout", "operation has timed out")

    def _forget(self, id: int) -> _PendingCall | None:
        call = self._pending.pop(id, None)
        if call is not None:
            self._timeouts.stop(call)
        return call

    # ------------------------------------------------------------------------------------ the target
    def serve(self, request: Call) -> None:
        """Call a socket of this process for another one, and send the answer when it is there."""
        result = self._directory.call_local(
            request.account_id, request.sid, request.event, msgspec.Raw(request.data), json_codec.encode
        )
        result.add_done_callback(lambda result: self._answer(request, result))

    def _answer(self, request: Call, result: asyncio.Future[bytes]) -> None:
        error = None if result.cancelled() else result.exception()
        if isinstance(error, CallFailed):
            answer = Answer(request.id, error.outcome, str(error))
        elif error is not None or result.cancelled():
            log.error("a call of another process failed", exc_info=error)
            answer = Answer(request.id, "disconnected", "RPC target disconnected")
        else:
            answer = Answer(request.id, "ok", arguments=result.result())
        channel = self._names.process(request.caller)
        self._link.send(channel, self._link.publication(channel, messages.encode(self._process, answer)))

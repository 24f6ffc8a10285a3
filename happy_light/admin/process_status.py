"""How one process of the server is: its sockets, its memory, and what it has done in the last hour."""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path
from typing import Final

from happy_light import __version__, json_codec
from happy_light.context import ServerContext
from happy_light.counters import STEP as STEP
from happy_light.wire import Outgoing

KINDS: Final = ("user", "session", "machine")
"""Kinds of sockets."""
ACCOUNTS_MAX: Final = 1_000  # connected accounts that are named
DEVICES_MAX: Final = 100  # devices of one of them that are; the sockets of further ones are counted together, as ""


class ProcessStatus(Outgoing):
    """A process. `started_at` in ms, `memory` in bytes.

    `sockets` counts connected sockets by `user` (apps), `session` and `machine`. `connected` are the numbers of sockets
    of up to 1,000 accounts, by device. `messages` and `calls` are counts of the last hour
    in steps of 10 s, the newest last.
    """

    id: str
    host: str
    pid: int
    version: str
    started_at: int
    memory: int
    sockets: dict[str, int]
    connected: dict[str, dict[str, int]]
    messages: list[int]
    calls: list[int]


async def sample(context: ServerContext) -> None:
    """Add a step to the counts of the last hour; a job that runs every STEP seconds."""
    context.counters.sample()


def status(context: ServerContext) -> ProcessStatus:
    """Return how this process is."""
    sockets, connected = dict.fromkeys(KINDS, 0), dict[str, dict[str, int]]()
    for client in context.clients.local:
        sockets[client.kind] += 1
        if client.account_id in connected or len(connected) < ACCOUNTS_MAX:
            devices = connected.setdefault(client.account_id, {})
            device = client.device if client.device in devices or len(devices) < DEVICES_MAX else ""
            devices[device] = devices.get(device, 0) + 1
    history = list(context.counters.history)
    return ProcessStatus(
        id="" if context.cluster is None else context.cluster.id,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=__version__,
        started_at=int(1000 * context.counters.started),
        memory=_memory(),
        sockets=sockets,
        connected=connected,
        messages=[messages for messages, _ in history],
        calls=[calls for _, calls in history],
    )


def answer_others(context: ServerContext) -> None:
    """Let the other processes of the server learn how this one is when they ask."""
    if context.cluster is not None:
        context.cluster.statuses.own = lambda: json_codec.encode(status(context))


def _memory() -> int:
    """Return the resident memory in bytes; where it cannot be read, the largest it was."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest

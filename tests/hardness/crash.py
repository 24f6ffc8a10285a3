"""Kills a server with SIGKILL under load, again and again, and looks for every acknowledged write.

`python -m tests.hardness.crash [kills] [--database postgres]`, or `make crash`: 100 kills. With PostgreSQL every second
kill is of PostgreSQL, which is started again while the server runs on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nacl.signing
import socketio

from tests.client import Account, Socket, World, b64, uid
from tests.conftest import Process
from tests.services import Postgres

# What a client meets when its server is killed; before that, nothing of it may happen.
LOST = (httpx.TransportError, OSError, TimeoutError, socketio.exceptions.SocketIOError)


@dataclass
class Found:
    """What all kills came to. `wrong` says in words what was lost, twice, missing a seq, or not to be answered."""

    kills: int = 0
    acknowledged: int = 0
    checked: int = 0
    lost: int = 0
    twice: int = 0
    gaps: int = 0
    unexpected: int = 0
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For people."""
        names = ["kills", "acknowledged", "checked", "lost", "twice", "gaps", "unexpected"]
        cells = [f"{getattr(self, name):,}" for name in names]
        widths = [max(len(name), len(cell)) for name, cell in zip(names, cells, strict=True)]
        lines = [
            "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in (names, cells)
        ]
        return "\n".join([*lines, *self.wrong[:20], f"{self.seconds:.0f} s"])


class Load:
    """One account's writers, and everything that they were told is stored."""

    def __init__(self, found: Found) -> None:
        self.key = nacl.signing.SigningKey.generate()
        self.session = ""
        self.messages: dict[str, tuple[int, str]] = {}
        """localId: (seq, content)"""
        self.kv: dict[str, str] = {}
        self.artifacts: set[str] = set()
        self.metadata: tuple[int, str] = (0, "meta")
        self.seqs: list[int] = []
        """Account seqs as a user-scoped socket heard them, in all lives of the server."""
        self.outage = False
        """Whether the server lives on without its database, and refuses what it cannot do: 503 and ok:false."""
        self.at_next_ack: Callable[[], None] | None = None
        """Called by whichever writer is told first that something is stored."""
        self._found = found

    @property
    def acknowledged(self) -> int:
        """How many writes."""
        return len(self.messages) + len(self.kv) + len(self.artifacts) + self.metadata[0]

    async def run(self, world: World, killed: asyncio.Event, back: asyncio.Event | None) -> None:
        """Write in every way until the server is killed; or its database, which will then be `back`."""
        self.outage = back is not None
        try:
            alice = await world.account(self.key)
            self.session = (await alice.session("tag"))["id"]
            ui, sender = await alice.socket(), await alice.socket(session=self.session)
        except Exception as error:
            self._note("signing in", error, killed)
            return
        writers = {
            "posting": self._posts(alice), "emitting": self._emits(sender), "kv": self._kv(alice),
            "artifacts": self._artifacts(alice), "metadata": self._meta(ui),
        }  # fmt: skip
        tasks = [asyncio.create_task(self._until_lost(*item, killed)) for item in writers.items()]
        await killed.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if back is not None:
            await back.wait()
            await self._go_on(alice, ui)
        self.seqs += [frame["seq"] for name, frame in ui.log if name == "update"]

    async def _go_on(self, alice: Account, ui: Socket) -> None:
        """Write once the database answers again, and check that the socket has missed nothing meanwhile."""
        name = uid()
        body = {"messages": [{"content": name, "localId": name}]}
        async with asyncio.timeout(60):
            while (answer := await alice.post(f"/v3/sessions/{self.session}/messages", body)).status_code != 200:
                if answer.status_code != 503:
                    self._found.wrong.append(f"a write during the outage: {answer.status_code} {answer.text}"[:500])
                await asyncio.sleep(0.02)
        self.messages[name] = answer.json()["messages"][0]["seq"], name
        if ui.dropped.is_set():
            self._found.wrong.append("the outage closed a socket")
            return
        await ui.call("ping")
        seqs = [frame["seq"] for event, frame in ui.log if event == "update"]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs))):
            self._found.gaps += 1
            missing = sorted({*range(min(seqs), max(seqs) + 1)} - {*seqs})
            disorder = [pair for pair in itertools.pairwise(seqs) if pair[1] <= pair[0]]
            self._found.wrong.append(
                f"a socket missed {missing} of {seqs[0]} to {seqs[-1]}; out of order: {disorder}"[:500]
            )
        if not any(event == "update" and name in str(frame) for event, frame in ui.log):
            self._found.lost += 1
            self._found.wrong.append("a socket did not hear the update of a write that was acknowledged")

    async def _until_lost(self, name: str, writer: Any, killed: asyncio.Event) -> None:
        try:
            async for _ in writer:
                if self.at_next_ack is not None:
                    self.at_next_ack()
        except Exception as error:
            self._note(name, error, killed)

    def _note(self, name: str, error: Exception, killed: asyncio.Event) -> None:
        """Count an error, unless the kill explains it."""
        expected = (*LOST, AssertionError) if self.outage else LOST
        if not (killed.is_set() and isinstance(error, expected)):
            self._found.unexpected += 1
            self._found.wrong.append(f"{name}: {error!r}"[:500])

    async def _posts(self, alice: Account) -> Any:
        while True:
            names = [uid() for _ in range(random.randint(1, 5))]
            for stored in await alice.send(self.session, *names, content=names[0]):
                self.messages[stored["localId"]] = (stored["seq"], names[0])
            yield

    async def _emits(self, sender: Socket) -> Any:
        while True:
            name = uid()
            ack = await sender.call("message", {"sid": self.session, "message": name, "localId": name})
            assert ack["ok"]
            self.messages[name] = (ack["seq"], name)
            yield

    async def _kv(self, alice: Account) -> Any:
        while True:
            key, value = uid(), b64(uid())
            await alice.ok("POST", "/v1/kv", {"mutations": [{"key": key, "value": value, "version": -1}]})
            self.kv[key] = value
            yield

    async def _artifacts(self, alice: Account) -> Any:
        while True:
            id = uid()
            body = {"id": id, "header": b64("h"), "body": b64("b"), "dataEncryptionKey": b64("k")}
            await alice.ok("POST", "/v1/artifacts", body)
            self.artifacts.add(id)
            yield

    async def _meta(self, ui: Socket) -> Any:
        first = True
        while True:
            version, _ = self.metadata
            data = {"sid": self.session, "metadata": uid(), "expectedVersion": version}
            ack = await ui.call("update-metadata", data)
            # A write whose ack was lost in a crash may have been stored: then its version is known now.
            assert ack["result"] == "success" or (first and ack["result"] == "version-mismatch"), ack
            assert ack["version"] == version + 1, ack
            self.metadata, first = (ack["version"], ack["metadata"]), False
            yield

    async def check(self, world: World, everything: bool) -> None:
        """Look for what was acknowledged: every message; of keys and artifacts a hundred, or with `everything` all."""
        most = 10**9 if everything else 100
        alice, found = await world.account(self.key), self._found
        stored: dict[str, tuple[int, str]] = {}
        seqs, after = [], 0
        while True:
            page = await alice.ok("GET", f"/v3/sessions/{self.session}/messages?after_seq={after}&limit=500")
            for message in page["messages"]:
                if message["localId"] in stored:
                    found.twice += 1
                    found.wrong.append(f"message {message['localId']} is stored twice")
                stored[message["localId"]] = message["seq"], message["content"]["c"]
                seqs.append(message["seq"])
            if not page["hasMore"]:
                break
            after = seqs[-1]
        if seqs != list(range(1, len(seqs) + 1)):
            found.gaps += 1
            found.wrong.append(f"messages of {self.session} have seqs that are not 1 to {len(seqs)}")
        for name, told in self.messages.items():
            self._compare(f"message {name}", stored.get(name), told)
        for key, value in random.sample(sorted(self.kv.items()), min(len(self.kv), most)):
            self._compare(f"key {key}", (await alice.get(f"/v1/kv/{key}")).json().get("value"), value)
        for id in random.sample(sorted(self.artifacts), min(len(self.artifacts), most)):
            self._compare(f"artifact {id}", (await alice.get(f"/v1/artifacts/{id}")).status_code, 200)
        (session,) = [row for row in (await alice.ok("GET", "/v1/sessions"))["sessions"] if row["id"] == self.session]
        self._compare("the session's seq", session["seq"], len(seqs))
        if session["metadataVersion"] <= self.metadata[0]:  # else one more was stored, whose ack was lost
            self._compare("metadata", (session["metadataVersion"], session["metadata"]), self.metadata)
        if self.seqs != sorted(set(self.seqs)):
            found.twice += 1
            found.wrong.append("an account seq was used twice, or out of order")

    def _compare(self, name: str, there: Any, told: Any) -> None:
        self._found.checked += 1
        if there != told:
            self._found.lost += 1
            self._found.wrong.append(f"{name}: acknowledged {told!r}, there is {there!r}")


def end(server: Process) -> None:
    """Stop a server that nothing has happened to, and look into its log."""
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log), "".join(server.log)


async def crash(kills: int, folder: Path, postgres: Postgres | None = None) -> Found:
    """Kill the server, or in turn it and its PostgreSQL, and look each time, until something is wrong."""
    environ = {} if postgres is None else {"DATABASE_URL": postgres.url}
    found = Found()
    loads = [Load(found) for _ in range(3)]
    began = time.monotonic()
    server = Process(folder, **environ)
    while found.kills < kills and not found.wrong:
        of_server = postgres is None or found.kills % 2 == 0
        async with World(server.url) as world:
            killed = asyncio.Event()
            back = None if of_server else asyncio.Event()
            running = [asyncio.create_task(load.run(world, killed, back)) for load in loads]
            victim: Process | Postgres = server if of_server or postgres is None else postgres

            def kill(victim: Process | Postgres = victim, killed: asyncio.Event = killed) -> None:
                if not killed.is_set():
                    victim.kill()
                killed.set()  # before any writer can meet it, since nothing was awaited

            # Some at any moment; most in the very moment of an answer, when what comes too early shows.
            await asyncio.sleep(random.uniform(0.3, 1.2))
            for load in loads:
                load.at_next_ack = None if found.kills % 4 == 0 else kill
            if found.kills % 4 == 0:
                kill()
            async with asyncio.timeout(90):
                if postgres is not None and back is not None:
                    await killed.wait()
                    await asyncio.sleep(random.uniform(0, 1))  # an outage of some length
                    await asyncio.to_thread(postgres.start)
                    back.set()
                await asyncio.gather(*running)
        found.kills += 1
        if not of_server:
            end(server)
        server = Process(folder, **environ)
        async with World(server.url) as world:
            for load in loads:
                load.at_next_ack = None
                if load.session:
                    await load.check(world, found.kills == kills)
    end(server)
    found.acknowledged = sum(load.acknowledged for load in loads)
    found.seconds = time.monotonic() - began
    assert found.wrong or found.acknowledged > kills, "the load was no load"
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as path, contextlib.ExitStack() as stack:
        server = stack.enter_context(Postgres()) if arguments.database == "postgres" else None
        result = asyncio.run(crash(arguments.kills, Path(path) / "data", server))
    print(result.table())
    sys.exit(1 if result.wrong else 0)

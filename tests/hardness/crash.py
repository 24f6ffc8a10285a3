"""Kills a server with SIGKILL under load, again and again, and looks for every acknowledged write.

`python -m tests.hardness.crash [kills]`, or `make crash`: 100 kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import nacl.signing

from tests.client import Account, Socket, World, b64, uid
from tests.conftest import Process


class Load:
    """One account's writers, and everything that they were told is stored."""

    def __init__(self) -> None:
        self.key = nacl.signing.SigningKey.generate()
        self.session = ""
        self.messages: dict[str, tuple[int, str]] = {}
        """localId: (seq, content)"""
        self.kv: dict[str, str] = {}
        self.artifacts: set[str] = set()
        self.metadata: tuple[int, str] = (0, "meta")
        self.seqs: list[int] = []
        """Account seqs as a user-scoped socket heard them, in all lives of the server."""
        self.tried = 0

    async def run(self, world: World, stop: asyncio.Event) -> None:
        """Writes in every way until the server is gone."""
        alice = await world.account(self.key)
        self.session = (await alice.session("tag"))["id"]
        ui, sender = await alice.socket(), await alice.socket(session=self.session)
        writers = [self._posts(alice), self._emits(sender), self._kv(alice), self._artifacts(alice), self._meta(ui)]
        tasks = [asyncio.create_task(self._until_lost(writer)) for writer in writers]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.seqs += [frame["seq"] for name, frame in ui.log if name == "update"]

    async def _until_lost(self, writer: Any) -> None:
        with contextlib.suppress(httpx.HTTPError, TimeoutError, OSError, Exception):
            async for _ in writer:
                self.tried += 1

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
        while True:
            version, _ = self.metadata
            data = {"sid": self.session, "metadata": uid(), "expectedVersion": version}
            ack = await ui.call("update-metadata", data)
            # A write whose ack was lost in a crash may have been stored: then its version is known now.
            self.metadata = ack["version"], ack["metadata"]
            yield

    async def check(self, world: World, everything: bool) -> None:
        """Raises AssertionError for anything that was acknowledged and is not there as it was.

        Every message each time; of keys and artifacts a hundred, or with `everything` all.
        """
        most = 10**9 if everything else 100
        alice = await world.account(self.key)
        found: dict[str, tuple[int, str]] = {}
        seqs, after = [], 0
        while True:
            page = await alice.ok("GET", f"/v3/sessions/{self.session}/messages?after_seq={after}&limit=500")
            for message in page["messages"]:
                assert message["localId"] not in found, "stored twice"
                found[message["localId"]] = message["seq"], message["content"]["c"]
                seqs.append(message["seq"])
            if not page["hasMore"]:
                break
            after = seqs[-1]
        assert seqs == list(range(1, len(seqs) + 1)), "a gap in seq"
        for name, stored in self.messages.items():
            assert found.get(name) == stored, f"message {name}: {found.get(name)} is not {stored}"
        for key, value in random.sample(sorted(self.kv.items()), min(len(self.kv), most)):
            assert (await alice.ok("GET", f"/v1/kv/{key}"))["value"] == value
        for id in random.sample(sorted(self.artifacts), min(len(self.artifacts), most)):
            await alice.ok("GET", f"/v1/artifacts/{id}")
        (session,) = [row for row in (await alice.ok("GET", "/v1/sessions"))["sessions"] if row["id"] == self.session]
        assert session["seq"] == len(seqs)
        assert session["metadataVersion"] >= self.metadata[0]
        if session["metadataVersion"] == self.metadata[0]:
            assert session["metadata"] == self.metadata[1]
        assert len(self.seqs) == len(set(self.seqs)), "an account seq was used twice"
        assert self.seqs == sorted(self.seqs), "account seqs out of order"


async def crash(kills: int, folder: Path) -> str:
    """-> what was found, in one line. Raises AssertionError for a lost write."""
    loads = [Load() for _ in range(3)]
    began = time.monotonic()
    for kill in range(1, kills + 1):
        server = Process(folder)
        async with World(server.url) as world:
            stop = asyncio.Event()
            running = [asyncio.create_task(load.run(world, stop)) for load in loads]
            await asyncio.sleep(random.uniform(0.3, 1.2))
            server.kill()
            stop.set()
            await asyncio.gather(*running, return_exceptions=True)
        server = Process(folder)
        async with World(server.url) as world:
            for load in loads:
                if load.session:
                    await load.check(world, kill == kills)
        assert server.stop() == 0
    count = sum(len(load.messages) + len(load.kv) + len(load.artifacts) + load.metadata[0] for load in loads)
    assert count > kills, "the load was no load"
    return (
        f"{kills} kills in {time.monotonic() - began:.0f} s: {count} acknowledged writes, all there, each once; "
        "message seq without gaps, account seq never used twice"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        print(asyncio.run(crash(int(sys.argv[1]) if len(sys.argv) > 1 else 100, Path(path) / "data")))

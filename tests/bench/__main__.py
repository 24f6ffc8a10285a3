"""Measures this server beside the bare stack, in turn: throughput, latency, CPU per operation, memory.

    python -m tests.bench [--seconds 2] [--rounds 3] [--json FILE]

The figures of one run compare with each other; those of two runs only as ratios, machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.bench import load

TEXT = "x" * 1024
Operation = Callable[[int], Awaitable[Any]]


class Target:
    """A server process: ours, or the bare stack."""

    def __init__(self, name: str, command: Callable[[int], list[str]]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        self.process = subprocess.Popen(
            command(port), stdout=subprocess.DEVNULL, env={**os.environ, "METRICS_ENABLED": "false"}
        )
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > began + 30:
                    raise
                time.sleep(0.005)
        self.start = time.monotonic() - began

    def cpu(self) -> float:
        """Seconds of CPU that the process has used, its threads included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """MiB that are its own share (PSS)."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


async def measure(target: Target, workers: int, seconds: float, operation: Operation) -> dict[str, float]:
    """`workers` repeat `operation(worker)` for so long; an operation may count for more than one."""
    latencies: list[float] = []
    operations = 0
    end = time.monotonic() + seconds

    async def work(worker: int) -> None:
        nonlocal operations
        while (began := time.monotonic()) < end:
            done = await operation(worker)
            latencies.append(time.monotonic() - began)
            operations += done if isinstance(done, int) else 1

    cpu, began = target.cpu(), time.monotonic()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    took, cpu = time.monotonic() - began, target.cpu() - cpu
    latencies.sort()
    return {
        "per_s": operations / took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "cpu_us": cpu / max(operations, 1) * 1e6,
    }


async def post(target: Target, workers: int, seconds: float, batch: int = 1) -> dict[str, float]:
    """Messages over HTTP, on disk when they are answered."""
    ours = target.name == "ours"
    token = await load.sign_in(target.url) if ours else ""
    sessions = [await load.session(target.url, token, f"s{i}") for i in range(4)] if ours else ["s"] * 4
    connections = [await load.Http.open(target.url) for _ in range(workers)]
    count = 0

    async def one(worker: int) -> int:
        nonlocal count
        messages = []
        for _ in range(batch):
            count += 1
            messages.append({"content": TEXT, "localId": f"l{count}"})
        path = f"/v3/sessions/{sessions[worker % 4]}/messages"
        await connections[worker].request("POST", path, json.dumps({"messages": messages}).encode(), token)
        return batch

    result = await measure(target, workers, seconds, one)
    for connection in connections:
        connection.close()
    return result


async def sockmsg(target: Target, seconds: float) -> dict[str, float]:
    """`message` from 32 sockets, 8 of each under way, with ack, and delivered to one user-scoped socket."""
    ours = target.name == "ours"
    token = await load.sign_in(target.url) if ours else "x"
    sessions = [await load.session(target.url, token, f"s{i}") for i in range(32)] if ours else ["s"] * 32
    heard = 0

    def hear(_: bytes) -> None:
        nonlocal heard
        heard += 1

    ui = await load.Socket.open(target.url, {"token": token, "clientType": "user-scoped"}, hear)
    senders = [
        await load.Socket.open(target.url, {"token": token, "clientType": "session-scoped", "sessionId": sessions[i]})
        for i in range(32)
    ]
    sent = 0

    async def one(worker: int) -> None:
        nonlocal sent
        sent += 1
        await senders[worker % 32].call(
            b'["message",' + json.dumps({"sid": sessions[worker % 32], "message": TEXT}).encode() + b"]"
        )

    result = await measure(target, 256, seconds, one)
    for _ in range(200):
        if heard == sent:
            break
        await asyncio.sleep(0.01)
    assert heard == sent, f"{sent} messages sent, {heard} delivered"
    for sender in (*senders, ui):
        sender.close()
    return result


async def fanout(target: Target, seconds: float) -> dict[str, float]:
    """Deliveries of one message to 50 user-scoped sockets."""
    token = await load.sign_in(target.url)
    session = await load.session(target.url, token, "s")
    missing = 0
    everybody: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(_: bytes) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            everybody.set_result(None)

    devices = [
        await load.Socket.open(target.url, {"token": token, "clientType": "user-scoped"}, hear) for _ in range(50)
    ]
    sender = await load.Socket.open(target.url, {"token": token, "clientType": "session-scoped", "sessionId": session})
    event = b'["message",' + json.dumps({"sid": session, "message": TEXT}).encode() + b"]"

    async def one(_: int) -> int:
        nonlocal missing, everybody
        everybody = asyncio.get_running_loop().create_future()
        missing = 50 * 8
        for _ in range(8):
            sender.call(event)
        await everybody
        return 50 * 8

    result = await measure(target, 1, seconds, one)
    for device in (*devices, sender):
        device.close()
    return result


async def rpc(target: Target, workers: int, seconds: float) -> dict[str, float]:
    """Measure calls from a phone to a daemon that answers at once."""
    token = await load.sign_in(target.url)
    daemon: load.Socket

    def hear(packet: bytes) -> None:
        if b"rpc-request" in packet[:40]:
            daemon.answer(packet, b'["result"]')

    daemon = await load.Socket.open(
        target.url, {"token": token, "clientType": "machine-scoped", "machineId": "m"}, hear
    )
    await daemon.call(b'["rpc-register",{"method":"m:x"}]')
    phones = [await load.Socket.open(target.url, {"token": token}) for _ in range(min(workers, 8))]

    async def one(worker: int) -> None:
        answer = await phones[worker % len(phones)].call(b'["rpc-call",{"method":"m:x","params":"p"}]')
        assert b"result" in answer

    result = await measure(target, workers, seconds, one)
    for opened in (daemon, *phones):
        opened.close()
    return result


async def reads(target: Target, seconds: float) -> dict[str, dict[str, float]]:
    """Measure the first screen, a page of messages, and what changed."""
    token = await load.sign_in(target.url)
    sessions = [await load.session(target.url, token, f"s{i}", "m" * 600) for i in range(150)]
    http = await load.Http.open(target.url)
    for start in range(0, 1000, 100):
        messages = [{"content": TEXT, "localId": f"l{start + i}"} for i in range(100)]
        path = f"/v3/sessions/{sessions[0]}/messages"
        await http.request("POST", path, json.dumps({"messages": messages}).encode(), token)
    listed = json.loads(await http.request("GET", "/v1/sessions", b"", token))["sessions"]
    since = sorted(one["updatedAt"] for one in listed)[-10] - 1
    paths = {
        "reads sessions": "/v1/sessions",
        "reads v3page": f"/v3/sessions/{sessions[0]}/messages?after_seq=400&limit=100",
        "reads changedSince": f"/v2/sessions?changedSince={since}",
    }
    connections = [await load.Http.open(target.url) for _ in range(16)]
    results = {}
    for name, path in paths.items():

        async def one(worker: int, path: str = path) -> None:
            await connections[worker].request("GET", path, b"", token)

        results[name] = await measure(target, 16, seconds, one)
    for connection in (*connections, http):
        connection.close()
    return results


async def connect(target: Target, count: int = 500) -> dict[str, float]:
    """Websockets made one after the other by 16 workers, and what an idle one weighs."""
    token = await load.sign_in(target.url)
    before, began, cpu = target.memory(), time.monotonic(), target.cpu()
    opened: list[load.Socket] = []

    async def work() -> None:
        while len(opened) < count:
            opened.append(await load.Socket.open(target.url, {"token": token}))

    await asyncio.gather(*(work() for _ in range(16)))
    took, cpu = time.monotonic() - began, target.cpu() - cpu
    result = {
        "per_s": len(opened) / took,
        "cpu_us": cpu / len(opened) * 1e6,
        "mib_per_1000": (target.memory() - before) / len(opened) * 1000,
    }
    for socket_ in opened:
        socket_.close()
    return result


def calibration() -> float:
    """ms of SHA-256 over 128 MiB: how fast this machine is just now."""
    data = b"\0" * (1 << 20)
    began = time.process_time()
    digest = hashlib.sha256()
    for _ in range(128):
        digest.update(data)
    return (time.process_time() - began) * 1000


async def once(seconds: float) -> dict[str, dict[str, float]]:
    """One round: everything once, ours and the bare stack in turn where both can do it."""
    here = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder:
        ours = Target("ours", lambda port: [*here, "happy_light", "--port", str(port), "--data-dir", folder])
        bare = Target("bare", lambda port: [*here, "tests.bench.bare", str(port)])
        try:
            rows = {"start": {"ms": ours.start * 1000, "mib_idle": ours.memory()}}
            for workers in (1, 32):
                rows[f"post1 c{workers}, bare"] = await post(bare, workers, seconds)
                rows[f"post1 c{workers}"] = await post(ours, workers, seconds)
            rows["post100 c4"] = await post(ours, 4, seconds, 100)
            rows["sockmsg w8, bare"] = await sockmsg(bare, seconds)
            rows["sockmsg w8"] = await sockmsg(ours, seconds)
            rows["fanout 50"] = await fanout(ours, seconds)
            for workers in (1, 32):
                rows[f"rpc c{workers}"] = await rpc(ours, workers, seconds)
            rows |= await reads(ours, seconds)
            rows["connect"] = await connect(ours)
            return rows
        finally:
            bare.stop()
            ours.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = [asyncio.run(once(arguments.seconds)) for _ in range(arguments.rounds)]
    print(f"calibration {calibration():.0f} ms, {os.cpu_count()} cores, medians of {len(rounds)} rounds\n")
    table: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        table[name] = {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        cells = "  ".join(f"{key} {value:,.{0 if value >= 100 else 2}f}" for key, value in table[name].items())
        print(f"{name:20} {cells}")
    print()
    for name in ("post1 c32", "sockmsg w8"):
        ratios = [one[name]["per_s"] / one[f"{name}, bare"]["per_s"] for one in rounds]
        print(f"{name} against the bare stack, by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "median": table}, indent=1))


if __name__ == "__main__":
    main()

"""stats and /metrics: right numbers, from a running server and without one, at no cost to mention."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from happy_light.admin import stats
from happy_light.counters import Counters, Timing, client_type
from tests.client import World, uid
from tests.commands import ok, run
from tests.conftest import Process, Start


def metrics_url(process: Process) -> str:
    found = re.search(r"^  Metrics  (\S+)$", "\n".join(process.printed), re.MULTILINE)
    assert found is not None, process.printed
    return found[1]


async def scrape(process: Process) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.get(metrics_url(process))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def request(method: str, route: str, status: int, client: str) -> tuple[tuple[str, str], ...]:
    return (("client_type", client), ("method", method), ("route", route), ("status", str(status)))


async def test_metrics_have_the_original_names_and_the_right_numbers(process: Process, own: World) -> None:
    alice = await own.account()
    session = (await alice.session())["id"]
    await alice.send(session, "a", "b", "c")
    await alice.get("/v1/sessions", headers={"X-Happy-Client": "ios/1.2.3"})
    await alice.get("/v1/sessions", headers={"X-Happy-Client": "my-own/1"})
    await alice.get(f"/v1/nothing/{uid()}")
    ui = await alice.socket(happyClient="web/1.0")
    daemon = await alice.socket(machine="m")
    daemon.answers["rpc-request"] = "result"
    await daemon.call("rpc-register", {"method": "m:do"})
    assert (await ui.call("rpc-call", {"method": "m:do", "params": "p"}))["ok"] is True
    await daemon.call("no-such-event", {})
    await ui.heard()

    samples = await scrape(process)

    for name in ("http_requests_total", "http_request_duration_seconds_count"):
        assert samples[name, request("GET", "/v1/sessions", 200, "ios")] == 1
        assert samples[name, request("GET", "/v1/sessions", 200, "other")] == 1
        assert samples[name, request("GET", "/*", 404, "unknown")] == 1
        assert samples[name, request("POST", "/v3/sessions/:id/messages", 200, "unknown")] == 1
    assert samples["websocket_connections_total", (("client_type", "web"), ("type", "user-scoped"))] == 1
    assert samples["websocket_connections_total", (("client_type", "unknown"), ("type", "machine-scoped"))] == 1
    assert samples["websocket_events_total", (("event_type", "rpc-call"),)] == 1
    assert samples["websocket_events_total", (("event_type", "unknown"),)] == 1
    assert samples["rpc_calls_total", (("result", "ok"),)] == 1
    for table, count in (("accounts", 1), ("sessions", 1), ("messages", 3)):
        assert samples["database_records_total", (("table", table),)] == count
    assert samples["database_writes_total", ()] >= samples["database_commit_duration_seconds_count", ()] > 0
    assert samples["database_bytes", (("part", "file"),)] > 0
    assert not any(session in str(key) or alice.id in str(key) for key in samples)


async def test_stats_tell_the_same_with_and_without_a_server(process: Process, own: World) -> None:
    alice = await own.account()
    session = (await alice.session())["id"]
    await alice.send(session, "a", "b")
    await alice.ok("POST", "/v1/projects", {"externalId": "e", "metadata": "m"})
    await alice.socket()
    file = process.folder / "attachments" / "sessions" / session / "a.enc"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 321)

    running = await ok(process.folder, "stats")
    process.stop()
    stopped = await ok(process.folder, "stats")

    assert running["records"] == stopped["records"] == {
        "accounts": 1, "sessions": 1, "messages": 2, "machines": 0, "projects": 1,
    }  # fmt: skip
    assert running["bytes"]["attachments"] == stopped["bytes"]["attachments"] == 321
    assert running["server"]["sockets"] == {"user-scoped": 1, "session-scoped": 0, "machine-scoped": 0}
    assert running["server"]["writer"]["writes"] >= 3
    assert stopped["server"] is None
    text = await run(process.folder, "stats")
    assert "not running" in text.out


def test_labels_are_bounded_and_durations_fall_into_their_buckets() -> None:
    counters = Counters()
    for number in range(100):
        counters.request("GET", "/v1/sessions", 200, f"client{number}/{number}", 0.002)
    assert list(counters.requests) == [("GET", "/v1/sessions", 200, "other")]
    assert client_type("CLI-Daemon/1.0") == "cli-daemon"
    timing = Timing()
    for seconds in (0.0005, 0.001, 0.002, 20.0):
        timing.add(seconds)
    assert (timing.buckets[:2], timing.buckets[-1], timing.count) == ([2, 1], 1, 4)
    assert stats.percentile(timing, 0.5) == 0.001


async def test_a_taken_port_is_a_warning_and_disabled_is_silent(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process: Process = start(folder=tmp_path / "taken", METRICS_PORT=str(port))
        async with World(process.url) as world:
            await world.account()
    assert f"no metrics: METRICS_PORT {port}" in "".join(process.log)
    silent: Process = start(folder=tmp_path / "off", METRICS_ENABLED="false")
    assert "metrics" not in "".join(silent.log)


async def test_only_metrics_are_answered_there(process: Process) -> None:
    url = metrics_url(process)
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        assert (await http.get(url.removesuffix("/metrics") + "/v1/sessions")).status_code == 404
        assert (await http.post(url)).status_code == 404
        head = await http.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert (await http.get(process.url + "/metrics")).status_code == 404

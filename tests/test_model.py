"""Order and audience: whatever several accounts do at once, each socket hears what a model says, in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Account, Socket, World
from tests.conftest import Process

ACCOUNTS, SESSIONS = 2, 2
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, ACCOUNTS - 1),
        st.integers(0, SESSIONS - 1),
        st.sampled_from(["post", "socket", "again", "metadata", "stale", "machine", "foreign", "state"]),
    ),
    min_size=1,
    max_size=25,
)


@dataclass
class Model:
    """One account: its sockets, and how many updates of each kind are due to whom."""

    account: Account
    sessions: list[str]
    ui: Socket
    mine: list[Socket]
    versions: dict[str, int] = field(default_factory=dict)
    due: list[list[str]] = field(default_factory=lambda: [[] for _ in range(SESSIONS)])
    due_ui: list[str] = field(default_factory=list)

    async def act(self, index: int, kind: str, number: int, other: Model) -> None:
        session = self.sessions[index]
        match kind:
            case "post":
                await self.account.send(session, f"{number}-a", f"{number}-b")
                self.tell(index, f"{number}-a", f"{number}-b")
            case "again":
                await self.account.send(session, f"{number}-a")
                await self.account.send(session, f"{number}-a")
                self.tell(index, f"{number}-a")
            case "socket":  # its sender does not hear it
                data = {"sid": session, "message": "x", "localId": f"{number}-s"}
                assert (await self.mine[index].call("message", data))["ok"]
                self.due_ui.append(f"{number}-s")
            case "metadata" | "state":
                event, name = ("update-metadata", "metadata") if kind == "metadata" else ("update-state", "agentState")
                version = self.versions.get(kind + session, 0)
                ack = await self.ui.call(event, {"sid": session, name: f"{number}", "expectedVersion": version})
                if ack["result"] == "success":
                    self.tell(index, f"{number}")
                self.versions[kind + session] = ack["version"]
            case "stale":
                stale = {"sid": session, "metadata": "stale", "expectedVersion": 99}
                assert (await self.ui.call("update-metadata", stale))["result"] == "version-mismatch"
            case "machine":
                await self.account.machine(f"m{number}")
                self.due_ui += [f"m{number}", f"m{number}"]
            case "foreign":
                data = {"sid": other.sessions[index], "message": "evil"}
                assert (await self.ui.call("message", data))["ok"] is False

    def tell(self, index: int, *names: str) -> None:
        self.due[index] += names
        self.due_ui += names


def name_of(body: Any) -> str:
    """Return what the model calls an update."""
    match body["t"]:
        case "new-message":
            return str(body["message"]["localId"])
        case "update-session":
            return str((body.get("metadata") or body.get("agentState"))["value"])
    return str(body["machineId"])


async def check(url: str, actions: list[tuple[int, int, str]]) -> None:
    async with World(url) as world:
        models = []
        for _ in range(ACCOUNTS):
            account = await world.account()
            sessions = [(await account.session())["id"] for _ in range(SESSIONS)]
            sockets = [await account.socket(session=session) for session in sessions]
            models.append(Model(account, sessions, await account.socket(), sockets))

        async def play(who: int) -> None:
            mine = [(number, action) for number, action in enumerate(actions) if action[0] == who]
            await asyncio.gather(*(
                models[who].act(index, kind, number, models[1 - who]) for number, (_, index, kind) in mine
            ))  # fmt: skip

        await asyncio.gather(*(play(who) for who in range(ACCOUNTS)))
        for model in models:
            frames = [frame for _, frame in await model.ui.heard("update")]
            seqs = [frame["seq"] for frame in frames]
            assert seqs == list(range(SESSIONS + 1, SESSIONS + 1 + len(seqs)))
            assert sorted(name_of(frame["body"]) for frame in frames) == sorted(model.due_ui)
            at = {frame["seq"]: frame for frame in frames}
            for socket, due in zip(model.mine, model.due, strict=True):
                own = [frame for _, frame in await socket.heard("update")]
                assert sorted(name_of(frame["body"]) for frame in own) == sorted(due)
                assert [frame["seq"] for frame in own] == sorted(frame["seq"] for frame in own)
                assert all(at[frame["seq"]] == frame for frame in own)  # the same update, wherever it is heard
            for session in model.sessions:
                page = await model.account.ok("GET", f"/v3/sessions/{session}/messages?limit=500")
                stored = [message["seq"] for message in page["messages"]]
                assert stored == list(range(1, len(stored) + 1))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(actions=ACTIONS)
def test_every_socket_hears_what_is_due_to_it_in_order(server: Process, actions: list[tuple[int, int, str]]) -> None:
    asyncio.run(check(server.url, actions))

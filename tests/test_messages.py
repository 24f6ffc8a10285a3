"""Messages: stored once, numbered without gaps, sent to the right sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests import databases
from tests.client import World, uid
from tests.raw_connections import PacketWebsocket


async def test_posted_messages_are_stored_and_sent_to_every_interested_socket(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    session = (await alice.session())["id"]
    other = (await alice.session())["id"]
    ui, mine, elsewhere = await alice.socket(), await alice.socket(session=session), await alice.socket(session=other)
    machine, stranger = await alice.socket(machine=uid()), await bob.socket(session=session)
    await ui.heard()

    (stored,) = await alice.send(session, "l1", content="secret")

    assert stored.keys() == {"id", "seq", "localId", "createdAt", "updatedAt"}
    assert (stored["seq"], stored["localId"]) == (1, "l1")
    (event,) = await ui.heard()
    assert event == (await mine.heard())[0]
    name, frame = event
    assert name == "update"
    assert frame.keys() == {"id", "seq", "body", "createdAt"}
    assert frame["body"] == {
        "t": "new-message",
        "sid": session,
        "message": {**stored, "content": {"t": "encrypted", "c": "secret"}},
    }
    assert await elsewhere.heard() == await machine.heard() == await stranger.heard() == []


async def test_a_local_id_is_stored_once_over_http_and_sockets(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, sender = await alice.socket(), await alice.socket(session=session)

    first = await alice.send(session, "a", "b", "a", content="first")
    again = await alice.send(session, "b", "c", content="again")
    ack = await sender.call("message", {"sid": session, "message": "socket", "localId": "a"})

    assert [message["seq"] for message in first] == [1, 2]
    assert [message["seq"] for message in again] == [2, 3]
    assert again[0] == first[1]
    assert ack == {"ok": True, "id": first[0]["id"], "seq": 1, "localId": "a"}
    frames = [frame for _, frame in await ui.heard("update")]
    assert [frame["body"]["message"]["seq"] for frame in frames] == [1, 2, 3]
    assert [frame["seq"] for frame in frames] == [frames[0]["seq"] + i for i in range(3)]
    page = await alice.ok("GET", f"/v3/sessions/{session}/messages")
    assert [message["content"]["c"] for message in page["messages"]] == ["first", "first", "again"]


async def test_a_socket_message_reaches_all_but_its_sender(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui, sender, second = await alice.socket(), await alice.socket(session=session), await alice.socket(session=session)

    ack = await sender.call("message", {"sid": session, "message": "hello"})

    assert ack.keys() == {"ok", "id", "seq", "localId"}
    assert (ack["ok"], ack["seq"], ack["localId"]) == (True, 1, None)
    assert await sender.heard() == []
    assert [body["message"]["content"]["c"] for body in await ui.updates()] == ["hello"]
    assert [body["message"]["content"]["c"] for body in await second.updates()] == ["hello"]


@pytest.mark.parametrize("data", [None, 5, {}, {"sid": "x"}, {"message": "x"}, {"sid": 5, "message": "x"}])
async def test_an_invalid_socket_message_gets_an_error_ack(world: World, data: object) -> None:
    alice = await world.account()
    ui = await alice.socket()
    ack = await ui.call("message", data)
    assert ack == {"ok": False, "error": "Invalid parameters"}
    assert await ui.heard() == []


async def test_a_message_for_a_foreign_session_is_rejected_everywhere(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session = (await alice.session())["id"]
    await alice.send(session, "l1")
    ui = await alice.socket()
    evil = await mallory.socket(session=session)

    body = {"messages": [{"content": "x", "localId": "x"}]}
    for response in (
        await mallory.get(f"/v1/sessions/{session}/messages"),
        await mallory.get(f"/v3/sessions/{session}/messages"),
        await mallory.post(f"/v3/sessions/{session}/messages", body),
    ):
        assert (response.status_code, response.json()) == (404, {"error": "Session not found"})
    ack = await evil.call("message", {"sid": session, "message": "x"})
    assert ack == {"ok": False, "error": "Session not found"}
    assert await ui.heard() == []


async def test_pages_after_and_before(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    await alice.send(session, *"abcdefg")
    path = f"/v3/sessions/{session}/messages"

    async def seqs(query: str) -> tuple[list[int], bool]:
        page = await alice.ok("GET", path + query)
        return [message["seq"] for message in page["messages"]], page["hasMore"]

    assert await seqs("?after_seq=2&limit=3") == ([3, 4, 5], True)
    assert await seqs("?after_seq=4&limit=3") == ([5, 6, 7], False)
    assert await seqs("?after_seq=&limit=2") == ([1, 2], True)
    assert await seqs("?before_seq=4&limit=2") == ([3, 2], True)
    assert await seqs("?before_seq=3&limit=2") == ([2, 1], False)
    assert await seqs("?before_seq=2147483647") == ([7, 6, 5, 4, 3, 2, 1], False)
    assert (await alice.get(path + "?after_seq=1&before_seq=2")).status_code == 400
    newest = await alice.ok("GET", f"/v1/sessions/{session}/messages")
    assert [message["seq"] for message in newest["messages"]] == [7, 6, 5, 4, 3, 2, 1]


async def test_many_writers_leave_no_gap_and_every_socket_sees_seq_rise(world: World) -> None:
    alice = await world.account()
    sessions = [(await alice.session())["id"] for _ in range(3)]
    ui = await alice.socket()
    senders = [await alice.socket(session=session) for session in sessions]

    async def over_http(session: str, who: int) -> None:
        for i in range(10):
            await alice.send(session, f"{who}-{i}-a", f"{who}-{i}-b")

    async def over_socket(index: int) -> None:
        for i in range(20):
            await senders[index].call("message", {"sid": sessions[index], "message": f"{i}", "localId": f"s{i}"})

    await asyncio.gather(*(over_http(session, 1) for session in sessions), *(over_socket(i) for i in range(3)))

    frames = [frame for _, frame in await ui.heard("update")]
    first = frames[0]["seq"]
    assert [frame["seq"] for frame in frames] == list(range(first, first + 120))
    for session in sessions:
        mine = [frame["body"]["message"]["seq"] for frame in frames if frame["body"]["sid"] == session]
        assert mine == list(range(1, 41))
        page = await alice.ok("GET", f"/v3/sessions/{session}/messages")
        assert [message["seq"] for message in page["messages"]] == mine


async def test_content_is_returned_unchanged(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    text = "🙂 ü \u202e \ufeff \u2028 日本 \\u0000 \x00 \x7f"
    if not databases.storable([text]):
        text = text.replace("\x00", "")
    await alice.send(session, text, content=text)
    await alice.send(session, "big", content="x" * 5_000_000)
    messages = (await alice.ok("GET", f"/v3/sessions/{session}/messages"))["messages"]
    assert (messages[0]["content"]["c"], messages[0]["localId"]) == (text, text)
    assert messages[1]["content"]["c"] == "x" * 5_000_000


async def test_a_page_mixes_texts_with_and_without_escapes(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    texts = ["plain", "", '"', "\\", 'a","b', '{"c":[', "\\u0000", "\b\f\n\r\t\x1f", "a\x00b", "🙂é", "last"]
    texts = databases.storable(texts)
    for text in texts:
        await alice.ok("POST", f"/v1/sessions/{session}/messages", {"content": text, "localId": text or None})
    for query, order in (("", 1), ("?before_seq=100", -1)):
        messages = (await alice.ok("GET", f"/v3/sessions/{session}/messages{query}"))["messages"][::order]
        assert [message["content"]["c"] for message in messages] == texts
        assert [message["localId"] for message in messages] == [text or None for text in texts]


async def test_the_documented_post_takes_one_message_or_a_batch(world: World) -> None:
    alice, mallory = await world.account(), await world.account()
    session = (await alice.session())["id"]
    path = f"/v1/sessions/{session}/messages"
    ui = await alice.socket()

    (one,) = (await alice.ok("POST", path, {"content": "one"}))["messages"]
    (two,) = (await alice.ok("POST", path, {"content": "two", "localId": "l2"}))["messages"]
    batch = [{"content": "again", "localId": "l2"}, {"content": "three", "localId": "l3"}]
    more = (await alice.ok("POST", path, {"messages": batch}))["messages"]

    assert (one["seq"], one["localId"], two["seq"]) == (1, None, 2)
    assert more[0] == two
    assert [body["message"]["content"]["c"] for body in await ui.updates()] == ["one", "two", "three"]
    wrong: list[dict[str, Any]] = [
        {},
        {"content": 5},
        {"messages": []},
        {"content": "x", "messages": batch},
        {"content": "x", "localId": ""},
    ]
    for body in wrong:
        assert (await alice.post(path, body)).status_code == 400
    refused = await mallory.post(path, {"content": "x"})
    assert (refused.status_code, refused.json()) == (404, {"error": "Session not found"})
    assert await ui.heard() == []


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_an_unpaired_surrogate_does_not_close_the_connection(world: World, transport: str) -> None:
    """What JavaScript cuts in the middle of a surrogate pair is legal JSON, and sent again after every reconnect."""
    alice = await world.account()
    session = (await alice.session())["id"]
    ui = await alice.socket(transports=(transport,))
    agent = await alice.socket(session=session)
    ack = await ui.call("message", {"sid": session, "message": "a\ud83d", "localId": "\udc00b"})
    assert (ack["ok"], ack["seq"], ack["localId"]) == (True, 1, "\ufffdb")
    (body,) = await agent.updates()
    assert body["message"]["content"] == {"t": "encrypted", "c": "a\ufffd"}
    assert (await ui.call("rpc-call", {"method": ""}))["ok"] is False  # the socket is still the same
    path = f"/v3/sessions/{session}/messages"
    headers = {"Content-Type": "application/json"}
    cut = b'{"messages":[{"content":"\\ud83d\\ud83d\\ude00","localId":"l"}]}'
    (stored,) = (await alice.request("POST", path, content=cut, headers=headers)).json()["messages"]
    assert (stored["seq"], stored["localId"]) == (2, "l")
    messages = (await alice.ok("GET", path))["messages"]
    assert [message["content"]["c"] for message in messages] == ["a\ufffd", "\ufffd\U0001f600"]
    assert [body["message"]["seq"] for body in await ui.updates()] == [2]


async def test_numbers_beyond_doubles_and_invalid_json_do_not_close_the_connection(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    async with await PacketWebsocket.open(world.url) as wire:
        await wire.connect({"token": alice.token})
        await wire.send('421["usage-report",{"key":"k","tokens":{"total":1e400},"cost":{"total":1}}]')
        refusal = await wire.packet()
        assert refusal.startswith("431") and "Invalid tokens object" in refusal
        await wire.send(f'422["update-metadata",{{"sid":"{session}","metadata":"m","expectedVersion":1e400}}]')
        assert await wire.packet() == '432[{"result":"error"}]'
        await wire.send('423["ping",NaN]')
        with pytest.raises((EOFError, ConnectionError)):
            await wire.packet()

"""Websocket frames: decoded as the `websockets` library does it, whatever is sent and however it is cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from happy_light.clients.packets import text_frame
from happy_light.live import frames
from happy_light.live.frames import FrameError, FrameReader

LIMIT = 300

Message = tuple[int, bytes]


def ours(pieces: list[bytes]) -> tuple[list[Message], int | None]:
    """Return what `FrameReader` makes of the bytes: messages, and the code of the error that ended it."""
    reader, messages = FrameReader(LIMIT), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (message := reader.next()) is not None:
                if message[0] != frames.CONTINUATION:
                    messages.append(message)
                if message[0] == frames.CLOSE:
                    return messages, None
    except FrameError as error:
        return messages, error.code
    return messages, None


def theirs(pieces: list[bytes]) -> tuple[list[Message], int | None]:
    """Return the same of the library's parser."""
    protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
    messages: list[Message] = []
    parts: list[bytes] = []
    kind = 0
    for piece in pieces:
        protocol.receive_data(piece)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            data = bytes(frame.data)
            if frame.opcode >= Opcode.CLOSE:
                messages.append((int(frame.opcode), data))
                if frame.opcode is Opcode.CLOSE:
                    return messages, None
                continue
            if frame.opcode is not Opcode.CONT:
                kind, parts = int(frame.opcode), []
            parts.append(data)
            if frame.fin:
                messages.append((kind, b"".join(parts)))
        if protocol.parser_exc is not None:
            assert protocol.close_sent is not None
            return messages, protocol.close_sent.code
    return messages, None


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Return the bytes as the network may deliver them."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(5)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def masked(opcode: int, data: bytes, fin: bool = True) -> bytes:
    framed = bytearray(Frame(Opcode.BINARY, data, fin).serialize(mask=True))
    framed[0] = framed[0] & 0xF0 | opcode
    return bytes(framed)


VALID_OR_NOT = st.builds(
    masked,
    st.sampled_from([0, 1, 2, 1, 2, 0, 9, 10, 8, 3, 11]),
    st.one_of(st.binary(max_size=20), st.binary(min_size=120, max_size=310)),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALID_OR_NOT, max_size=8), st.integers(0, 2**32))
def test_frames_mean_what_the_library_says(sent: list[bytes], seed: int) -> None:
    pieces = cut(b"".join(sent), random.Random(seed))
    messages, code = ours(pieces)
    expected, expected_code = theirs(pieces)
    # A close frame that is malformed ends a connection of the library with an error, one of ours with its answer.
    if messages and messages[-1][0] == frames.CLOSE and expected_code is not None:
        messages.pop()
        code = expected_code
    assert messages == expected
    assert (code is None) == (expected_code is None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 2**32))
def test_any_bytes_end_like_in_the_library(data: bytes, seed: int) -> None:
    # What follows completes every frame that is allowed: ours refuses a forbidden one before it is complete.
    pieces = [*cut(data, random.Random(seed)), bytes(LIMIT + 20)]
    messages, code = ours(pieces)
    expected, expected_code = theirs(pieces)
    if not any(message[0] == frames.CLOSE for message in messages):
        assert (messages, code is None) == (expected, expected_code is None)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000])
def test_frames_that_are_sent_are_those_of_the_library(size: int) -> None:
    assert text_frame(b"x" * size) == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)


def test_a_large_message_in_small_pieces_takes_linear_time_and_memory() -> None:
    reader = FrameReader(50_000_000)
    data = masked(frames.TEXT, b"x" * 30_000_000)
    for start in range(0, len(data), 4_096):
        assert reader.next() is None
        reader.feed(data[start : start + 4_096])
    message = reader.next()
    assert message is not None and len(message[1]) == 30_000_000
    assert reader.buffered == 0


def test_fragments_are_bounded_in_size_and_number() -> None:
    reader = FrameReader(1_000)
    reader.feed(masked(frames.TEXT, b"x" * 900, fin=False) + masked(frames.CONTINUATION, b"x" * 101))
    assert reader.next() == (frames.CONTINUATION, b"x" * 900)
    with pytest.raises(FrameError, match="too large") as raised:
        reader.next()
    assert raised.value.code == 1009
    reader = FrameReader(1_000)
    reader.feed(masked(frames.TEXT, b"", fin=False) + masked(frames.CONTINUATION, b"", fin=False) * 10_001)
    assert [reader.next() for _ in range(10_000)] == [(frames.CONTINUATION, b"")] * 10_000  # a frame at a time
    with pytest.raises(FrameError, match="too many fragments"):
        reader.next()


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", None), (b"\x03\xe8bye", 1000), (b"\x03", 1002), (b"\x00\x05", 1002), (b"\x03\xe8\xff", 1002)],
)
def test_a_close_frame_is_answered(payload: bytes, code: int | None) -> None:
    answer = frames.close_answer(payload)
    assert answer[2:4] == (b"" if code is None else code.to_bytes(2, "big"))

"""JSON that only JavaScript accepts is accepted where it is small, so that it costs the event loop little."""

from __future__ import annotations

import resource

import msgspec
import psutil
import pytest

from happy_light import json_codec
from happy_light.wire import Incoming


class Example(Incoming):
    version: int


def test_whole_floats_are_integers_and_half_surrogate_pairs_are_replaced() -> None:
    decode = json_codec.decoder(Example)
    assert decode(b'{"version":1.0}').version == decode(b'{"version":1.0,"x":[[2.5,null]]}').version == 1
    assert decode(b'{"version":1,"x":"\\ud800"}').version == 1
    assert json_codec.decode(b'["a\\ud83d", 1e999]') == ["a\ufffd", float("inf")]


@pytest.mark.parametrize("raw", [
    b'{"version":1.0,"x":[' + b"1," * 20_000 + b"1]}",
    b'{"version":1.0,"x":"' + b"x" * 1_100_000 + b'"}',
    b'{"version":1,"x":"\\ud800' + b"x" * 140_000 + b'"}',
    b'{"version":NaN}',
])  # fmt: skip
def test_what_is_large_gets_no_second_look(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        json_codec.decoder(Example)(raw)


def test_large_texts_are_decoded_all_the_same() -> None:
    raw = b'{"version":1,"x":"' + b"x" * 5_000_000 + b'"}'
    assert json_codec.decoder(Example)(raw).version == 1


def test_a_text_that_there_is_no_memory_for_is_not_decoded() -> None:
    """Under a limit of memory the decoder itself would end the process."""
    text = b'["' + b"x" * 40_000_000 + b'"]'
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + 60_000_000, before[1]))
    try:
        with pytest.raises(MemoryError):
            json_codec.decode(text)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert len(json_codec.decode(text)[0]) == 40_000_000

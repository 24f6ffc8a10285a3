"""Ids: the form that clients know, rising, and never the same."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from happy_light import wire


def test_ids_have_their_form_and_rise() -> None:
    ids = [wire.new_id() for _ in range(5000)]
    assert ids == sorted(ids)
    assert all(re.fullmatch("c[a-z0-9]{24}", id) for id in ids)


def test_ids_rise_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = wire.new_id()
    monkeypatch.setattr(wire, "now_ms", lambda: 1)
    assert first < wire.new_id() < wire.new_id()


def test_the_random_part_never_comes_again() -> None:
    # As much as is fetched from the system at once, and more; an update's id is this part alone.
    assert len({wire.new_id()[-12:] for _ in range(5000)}) == 5000


def test_threads_get_ids_of_their_own() -> None:
    def some(_: int) -> list[str]:
        return [wire.new_id() for _ in range(2000)]

    with ThreadPoolExecutor(4) as pool:
        ids = [id for part in pool.map(some, range(4)) for id in part]
    assert len(set(ids)) == len({id[-12:] for id in ids}) == 8000


def test_a_second_look_is_for_small_things_only() -> None:
    class Version(wire.Incoming):
        version: int

    decode = wire.decoder(Version)
    assert decode(b'{"version":1.0}').version == decode(b'{"version":1.0,"x":[[2.5,null]]}').version == 1
    assert decode(b'{"version":1,"x":"\\ud800"}').version == 1
    for raw in (
        b'{"version":1.0,"x":[' + b"1," * 20_000 + b"1]}",
        b'{"version":1.0,"x":"' + b"x" * 1_100_000 + b'"}',
        b'{"version":1,"x":"\\ud800' + b"x" * 1_100_000 + b'"}',
    ):
        with pytest.raises(msgspec.DecodeError):
            decode(raw)

"""Ids: the form that clients know, ascending, and never the same."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from happy_light import ids


def test_ids_have_their_form_and_ascend() -> None:
    made = [ids.new_id() for _ in range(5000)]
    assert made == sorted(made)
    assert all(re.fullmatch("c[a-z0-9]{24}", id) for id in made)


def test_ids_ascend_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_id()
    monkeypatch.setattr(ids, "now_ms", lambda: 1)
    assert first < ids.new_id() < ids.new_id()


def test_the_random_part_never_comes_again() -> None:
    # As much as is fetched from the system at once, and more; an update's id is this part alone.
    made = {part for _ in range(2500) for part in (ids.new_id()[-12:], ids.short_id())}
    assert len(made) == 5000
    assert all(re.fullmatch("[a-z0-9]{12}", part) for part in made)


def test_threads_get_ids_of_their_own() -> None:
    def some(_: int) -> list[str]:
        return [ids.new_id() for _ in range(2000)]

    with ThreadPoolExecutor(4) as pool:
        made = [id for part in pool.map(some, range(4)) for id in part]
    assert len(set(made)) == len({id[-12:] for id in made}) == 8000

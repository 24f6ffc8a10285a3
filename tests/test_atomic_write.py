"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from happy_light.atomic_write import TEMPORARY_SUFFIX, atomic_file, write_atomic


def test_a_file_is_replaced_in_one_step_and_private(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with atomic_file(target) as file:
        file.write(b"after")
        file.flush()
        assert target.read_bytes() == b"before"
        assert Path(file.name).parent == tmp_path and file.name.endswith(TEMPORARY_SUFFIX)
    assert target.read_bytes() == b"after"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_after_an_exception_the_old_content_is_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_without_overwrite_the_first_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write_atomic(target, b"second", overwrite=False)
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]

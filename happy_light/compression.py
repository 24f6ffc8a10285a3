"""Compressed content: brotli and gzip."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Final

MIN: Final = 1024  # bytes; what is shorter fits into one packet either way
SUFFIXES: Final = {"br": ".br", "gzip": ".gz"}
"""The codings by their names in HTTP, the one that compresses better first, with the suffix of a file's name."""
_PIECE: Final = 256 * 1024  # bytes compressed between two chances to stop
_KINDS: Final = re.compile(
    r"text/|image/(svg\+xml|x-icon)|font/[ot]tf|application/(vnd\.ms-fontobject|wasm|xml|json|[\w.-]+\+(json|xml))"
)


def is_compressible(content_type: str) -> bool:
    """Whether content of this type becomes much smaller by compression."""
    return _KINDS.match(content_type) is not None


def accepts(header: str | None, name: str) -> bool:
    """Whether an Accept or Accept-Encoding header names a type or coding, not with q=0; wildcards do not count."""
    for part in (header or "").lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind == name:
            return not any(re.fullmatch(r"q=0(\.0*)?", piece) for piece in parameters)
    return False


def compress(coding: str, content: bytes) -> bytes:
    """Return the content, compressed as well as possible."""
    return b"".join(pieces(coding, content))


def quickly(content: bytes) -> bytes:
    """Return the content compressed with gzip, at 50 MB/s or more."""
    return gzip.compress(content, 1, mtime=0)


def pieces(coding: str, content: bytes) -> Iterator[bytes]:
    """Yield the content compressed as well as possible; a caller that has to stop ends the loop. It takes seconds."""
    process, finish = _compressor(coding)
    for start in range(0, len(content), _PIECE):
        yield process(content[start : start + _PIECE])
    yield finish()


def _compressor(coding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    if coding == "br":
        import brotli  # 1 ms, for those who serve the web app

        compressor = brotli.Compressor(quality=11, lgwin=22)
        return compressor.process, compressor.finish
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with the header of gzip
    return packer.compress, packer.flush

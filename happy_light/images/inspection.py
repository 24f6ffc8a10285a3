"""Pictures from elsewhere: what they are by their content, their size and their thumbhash.

Needs Pillow (the extra `github`); without it no picture is taken.
"""

from __future__ import annotations

import base64
import io
import logging

import msgspec

from happy_light.images import thumbhash

log = logging.getLogger(__name__)

BYTES_MAX = 5 * 1024 * 1024
SIDE_MAX = 2048  # pixels
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg"}


class Picture(msgspec.Struct, frozen=True):
    """A PNG or JPEG. Sizes in pixels as it is to be seen; `thumbhash` in base64."""

    data: bytes
    extension: str
    width: int
    height: int
    thumbhash: str


def read(data: bytes) -> Picture | None:
    """Return the picture, if it is a whole PNG or JPEG of a reasonable size; else None. Takes about 0.1 s."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        log.info("Pillow is not installed (pip install 'happy-server-light[github]'), so avatars are left out")
        return None
    try:
        with Image.open(io.BytesIO(data), formats=list(_EXTENSIONS)) as image:
            image.verify()  # checksums and completeness; after it the picture has to be opened anew
        with Image.open(io.BytesIO(data), formats=list(_EXTENSIONS)) as image:
            if max(image.size) > SIDE_MAX:
                return None
            kind = str(image.format)
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            width, height = upright.size
            upright.thumbnail((thumbhash.SIZE_MAX, thumbhash.SIZE_MAX))
            hashed = thumbhash.encode(*upright.size, upright.tobytes())
    except Exception as error:  # Pillow's decoders raise whatever they like at what is no picture
        log.info("not a picture: %s", type(error).__name__)
        return None
    return Picture(data, _EXTENSIONS[kind], width, height, base64.b64encode(hashed).decode())

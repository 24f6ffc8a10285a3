"""ThumbHash, encoder only: a picture's average, proportions and blur in about 25 bytes (evanw.github.io/thumbhash)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

SIZE_MAX = 100  # pixels of the longer side


def encode(width: int, height: int, rgba: bytes) -> bytes:
    """Return the hash of a picture of at most 100 by 100 pixels; `rgba` has 4 bytes for each, row by row."""
    assert 0 < width <= SIZE_MAX >= height > 0
    count = width * height
    alphas = [rgba[i] / 255 for i in range(3, 4 * count, 4)]
    opaque = sum(alphas)
    average = [
        sum(alpha * rgba[4 * i + channel] / 255 for i, alpha in enumerate(alphas)) / (opaque or 1)
        for channel in range(3)
    ]
    lightness, yellow_blue, red_green = [], [], []
    for i, alpha in enumerate(alphas):  # what is transparent counts as the average
        r, g, b = (average[channel] * (1 - alpha) + alpha * rgba[4 * i + channel] / 255 for channel in range(3))
        lightness.append((r + g + b) / 3)
        yellow_blue.append((r + g) / 2 - b)
        red_green.append(r - g)

    has_alpha = opaque < count
    limit = 5 if has_alpha else 7  # fewer waves of lightness leave room for those of transparency
    longer = max(width, height)
    across, down = (max(1, _round(limit * side / longer)) for side in (width, height))
    l_dc, l_ac, l_scale = _channel(lightness, width, height, max(3, across), max(3, down))
    p_dc, p_ac, p_scale = _channel(yellow_blue, width, height, 3, 3)
    q_dc, q_ac, q_scale = _channel(red_green, width, height, 3, 3)

    landscape = width > height
    head = (
        _round(63 * l_dc)
        | _round(31.5 + 31.5 * p_dc) << 6
        | _round(31.5 + 31.5 * q_dc) << 12
        | _round(31 * l_scale) << 18
        | has_alpha << 23
    )
    shape = (down if landscape else across) | _round(63 * p_scale) << 3 | _round(63 * q_scale) << 9 | landscape << 15
    waves = [*l_ac, *p_ac, *q_ac]
    out = bytearray(head.to_bytes(3, "little") + shape.to_bytes(2, "little"))
    if has_alpha:
        a_dc, a_ac, a_scale = _channel(alphas, width, height, 5, 5)
        out.append(_round(15 * a_dc) | _round(15 * a_scale) << 4)
        waves += a_ac
    nibbles = [_round(15 * wave) for wave in waves]
    nibbles += [0] * (len(nibbles) % 2)
    out += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return bytes(out)


def _channel(values: Sequence[float], width: int, height: int, nx: int, ny: int) -> tuple[float, list[float], float]:
    """Return the average, the waves as 0…1 in the order of the hash, and their factor."""
    total, scale, waves = 0.0, 0.0, []
    columns = list(_waves(width, nx))
    rows = list(_waves(height, ny))
    for cy in range(ny):
        for cx in range(nx):
            if cx * ny >= nx * (ny - cy):
                break
            column = columns[cx]
            wave = sum(
                rows[cy][y] * sum(map(float.__mul__, column, values[y * width : (y + 1) * width]))
                for y in range(height)
            ) / (width * height)
            if cx or cy:
                waves.append(wave)
                scale = max(scale, abs(wave))
            else:
                total = wave
    if scale:
        waves = [0.5 + 0.5 / scale * wave for wave in waves]
    return total, waves, scale


def _waves(size: int, count: int) -> Iterator[list[float]]:
    for wave in range(count):
        yield [math.cos(math.pi / size * wave * (at + 0.5)) for at in range(size)]


def _round(value: float) -> int:
    """As JavaScript rounds: halves up."""
    return math.floor(value + 0.5)

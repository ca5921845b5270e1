from __future__ import annotations

import struct

import numpy as np
import pytest

from vllava_cli.media.pictures import Orientation, orientation_of, upright

LETTERS = np.arange(1 * 2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)


def matrix(a: float, b: float, c: float, d: float) -> bytes:
    return struct.pack("=9i", *(round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0, 16384)))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (None, Orientation()),
        (b"short", Orientation()),
        (matrix(0, 0, 0, 0), Orientation()),
        (matrix(1, 0, 0, 1), Orientation()),
        (matrix(0, 1, -1, 0), Orientation(rotation=90)),
        (matrix(-1, 0, 0, -1), Orientation(rotation=180)),
        (matrix(0, -1, 1, 0), Orientation(rotation=270)),
        (matrix(0.01, 0.99, -0.99, 0.01), Orientation(rotation=90)),
        (matrix(-1, 0, 0, 1), Orientation(is_mirrored=True)),
        (matrix(1, 0, 0, -1), Orientation(is_mirrored=True, rotation=180)),
        (matrix(0, 1, 1, 0), Orientation(is_mirrored=True, rotation=270)),
        (matrix(0, -1, -1, 0), Orientation(is_mirrored=True, rotation=90)),
    ],
)
def test_what_a_display_matrix_says(stored: bytes | None, expected: Orientation) -> None:
    assert orientation_of(stored) == expected


@pytest.mark.parametrize("quarters", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_every_pixel_goes_where_the_matrix_sends_it(quarters: tuple[int, int, int, int], flip: int) -> None:
    a, b, c, d = quarters[0] * flip, quarters[1] * flip, quarters[2], quarters[3]
    sent = {(a * x + c * y, b * x + d * y): LETTERS[0, y, x] for y in range(2) for x in range(3)}
    left, top = min(x for x, _ in sent), min(y for _, y in sent)
    turned = upright(LETTERS, orientation_of(matrix(a, b, c, d)))
    assert turned.shape == ((1, 2, 3, 3) if b == 0 else (1, 3, 2, 3))
    assert all((turned[0, y - top, x - left] == pixel).all() for (x, y), pixel in sent.items())

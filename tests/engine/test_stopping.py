"""When an answer ends where the model would go on, as a table."""

from __future__ import annotations

import pytest

from vllava_cli.engine.stopping import stop_of
from vllava_cli.nouns import Sampling, StopReason

LOOP = [7] * 10


@pytest.mark.parametrize(
    ("ids", "most", "room", "is_straying", "has_guard", "wanted"),
    [
        ([1, 2, 3], 4, 4, False, True, None),
        ([1, 2, 3], 3, 4, False, True, "length"),
        ([1, 2, 3], 4, 3, False, True, "context"),
        ([1, 2, 3], 3, 3, False, True, "length"),
        ([], 3, 0, False, True, "context"),
        (LOOP, 20, 20, False, True, "repetition"),
        (LOOP, 10, 10, False, True, "repetition"),
        (LOOP, 20, 20, False, False, None),
        (LOOP, 10, 20, False, False, "length"),
        (LOOP[:9], 20, 20, False, True, None),
        ([1], 20, 20, True, True, "repetition"),
        ([1], 1, 1, True, True, "repetition"),
        ([1], 20, 20, True, False, None),
    ],
)
def test_an_answer_ends(
    ids: list[int], most: int, room: int, is_straying: bool, has_guard: bool, wanted: StopReason | None
) -> None:
    sampling = Sampling(max_new_tokens=most, has_guard=has_guard)
    assert stop_of(ids, sampling, produced=len(ids), room_tokens=room, is_straying=is_straying) == wanted


def test_stray_tokens_count_for_the_length_and_the_context() -> None:
    sampling = Sampling(max_new_tokens=4)
    assert stop_of([1, 2], sampling, produced=4, room_tokens=9, is_straying=False) == "length"
    assert stop_of([1, 2], sampling, produced=3, room_tokens=3, is_straying=False) == "context"

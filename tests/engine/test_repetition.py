"""Loops are seen, honest repetition is not."""

import pytest

from vllava_cli.engine.repetition import is_looping

LOOPS = {
    "one word ten times": [1, 2, 3] + [7] * 10,
    "two words twelve times": [1] + [7, 8] * 12,
    "a sentence of nine tokens three times": list(range(20, 30)) + list(range(9)) * 3,
    "a long sentence three times": list(range(96)) * 3,
}
HONEST = {
    "nothing": [],
    "one word nine times": [1, 2, 3] + [7] * 9,
    "two words eleven times": [1] + [7, 8] * 11,
    "a sentence twice": list(range(9)) * 2,
    "a loop that ended": [7] * 20 + [8],
    "counting": list(range(100)),
    "the same beginning of each line": [token for n in range(30) for token in (1, 2, 100 + n, 3)],
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_seen(name: str) -> None:
    assert is_looping(LOOPS[name])


@pytest.mark.parametrize("name", HONEST)
def test_other_answers_go_on(name: str) -> None:
    assert not is_looping(HONEST[name])

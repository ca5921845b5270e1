"""The demo answers rightly about files that training never saw; the floors are the bars that were set for it.

"direction beside another" misses its bar and is not offered; training/README.md tells its figure and how that came.
"""

from __future__ import annotations

import pytest

from training.evaluate import Row, outcomes, rows
from training.heldout import make
from vllava_cli.demo import CHECKPOINT

CLIPS = 90
SEED = 20
FLOORS = {
    "background": 0.95,
    "colour": 0.95,
    "count": 0.95,
    "direction": 0.95,
    "refusal": 0.95,
    "shape": 0.95,
    "action": 0.9,
    "follow-up": 0.9,
    "order": 0.9,
    "yes/no": 0.9,
    "image background": 0.9,
    "image colour": 0.9,
    "image count": 0.9,
    "image shape": 0.9,
    "image yes/no": 0.9,
}
EACH_DIRECTION = 0.9
NOT_OFFERED = {"direction beside another"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    folder = tmp_path_factory.mktemp("held_out")
    return {row.kind: row for row in rows(outcomes(CHECKPOINT, make(folder, CLIPS, SEED)))}


def test_at_least_three_hundred_questions_of_every_kind_are_asked(table: dict[str, Row]) -> None:
    kinds = {kind for kind in table if not kind.startswith("direction: ")} - NOT_OFFERED
    assert kinds == set(FLOORS)
    assert sum(table[kind].asked for kind in kinds) >= 300
    assert all(table[kind].asked >= 15 for kind in kinds)


@pytest.mark.parametrize("kind", FLOORS)
def test_answers_of_each_kind_are_right(kind: str, table: dict[str, Row]) -> None:
    assert table[kind].share >= FLOORS[kind], table[kind]


def test_each_direction_is_told(table: dict[str, Row]) -> None:
    directions = [row for kind, row in table.items() if kind.startswith("direction: ")]
    assert len(directions) == 9
    assert [row for row in directions if row.share < EACH_DIRECTION] == []

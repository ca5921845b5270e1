"""Makes the benchmark that is shipped with the demo: `python -m training.benchmark [FOLDER]`.

Clips of scenes that training never drew, and questions about them in the forms in which public benchmarks come:
multiple choice, open questions, yes or no with the answers in a second file, and questions about parts of longer clips.
"""

import csv
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from random import Random

import numpy as np

from training.asking import NOT_MOVING, Item, sentence, way
from training.media import Encoding, Pixels, drawn, encode, rounded
from training.questions import NOTHING_MOVES, NUMBERS, items
from training.wordings import COLOUR_NAMELESS, DIRECTION_ONE, SHAPE_ASKED
from training.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, sample_scene
from vllava_cli.demo import BENCHMARK

SEED = "benchmark 22"
H264 = {"crf": "25", "preset": "slow", "bf": "2"}
ENCODINGS = (
    Encoding(options=H264),
    Encoding(codec="libvpx-vp9", suffix=".webm", options={"deadline": "good", "cpu-used": "4", "crf": "34"}),
    Encoding(options=H264),
    Encoding(suffix=".mkv", options=H264),
    Encoding(codec="mpeg4", suffix=".avi", options={"b": "120k"}),
)
SIZES = ((96, 96), (160, 120), (320, 180), (128, 128))
"""(width, height)"""
RATES = (8, 10, 12, 15)
FOLDERS = ("", "", "part2", "part2/more")
SHOT_S = 2
SHARES = {"rest": 1, "act": 3, "duo": 10, "sequence": 4, "many": 3}
"""How many clips have each kind of scene, besides one for each direction."""
JOINED = 6
"""How many clips have two scenes, one after the other."""
OPTIONS = 4
BESIDE = "direction beside another"
"""The kind of question at which the demo is weak: it takes the way of one thing for that of another."""
KINDS = ("colour", "shape", "count", "background", "direction", "order", "action", BESIDE)
PART_KINDS = {
    "colour": COLOUR_NAMELESS,
    "shape": SHAPE_ASKED,
    "direction": DIRECTION_ONE[:6],
}
"""The kinds of questions about parts of clips, and wordings that suit whatever is seen there."""
WAYS = (*(sentence(direction) for direction in DIRECTIONS), NOT_MOVING)
FAMILIES = (
    ("grows", "shrinks", "appears", "disappears"),
    tuple(COLOURS),
    SHAPES,
    tuple(DIRECTIONS),
    tuple(BACKGROUNDS),
    tuple(map(str.lower, NUMBERS[1:])),
)
"""Words that can stand for each other; those of the first only behind "It"."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """One clip: its scenes, one after another, and how it is drawn and encoded."""

    name: str
    """Without an ending: "v07"."""
    path: str
    """In the folder of the clips: "part2/v07.webm"."""
    scenes: tuple[Scene, ...]
    size: tuple[int, int]
    """(width, height)"""
    fps: int
    noise: int
    """The seed of its noise."""
    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about a clip, and its right answer."""

    film: Film
    item: Item


def films() -> list[Film]:
    """Every clip; each call returns the same."""
    random = Random(SEED)
    scenes = [(_moving(random, direction),) for direction in DIRECTIONS]
    scenes += [(sample_scene(random, kind),) for kind, count in SHARES.items() for _ in range(count)]
    random.shuffle(scenes)
    return [_film(random, number, each) for number, each in enumerate([*scenes, *islice(_joined(random), JOINED)], 1)]


def annotations(shown: Sequence[Film]) -> dict[str, str]:
    """Writes the files of questions: name → text."""
    random = Random(SEED)
    single = [film for film in shown if len(film.scenes) == 1]
    doubted = list(_asked(single, random, ("yes/no",), each=2))
    return {
        "choices.jsonl": "".join(f"{json.dumps(row)}\n" for row in _choice_rows(single, random)),
        "open.csv": _table(_open_rows(single, random), ","),
        "yes_no_q.json": _listed(
            {"video_name": asked.film.name, "question": asked.item.question, "question_id": f"yes_no_{number}"}
            for number, asked in enumerate(doubted, 1)
        ),
        "yes_no_a.json": _listed(
            {"answer": _plain(asked.item.answer), "question_id": f"yes_no_{number}"}
            for number, asked in enumerate(doubted, 1)
        ),
        "moments.tsv": _table(_moment_rows(shown, random), "\t"),
    }


def pixels(film: Film) -> Pixels:
    """Draws a clip [T, H, W, 3], with its own light and noise."""
    width, height = film.size
    noise = np.random.default_rng(film.noise)
    shown = np.concatenate([drawn(scene, SHOT_S * film.fps, height, width) for scene in film.scenes])
    lit = shown * noise.uniform(0.95, 1.04) + noise.uniform(-4, 4)
    return rounded((lit + noise.normal(0, 1.5, shown.shape)).astype(np.float32))


def make(folder: Path) -> None:
    """Writes the clips and the questions; what is in the folder already is deleted, except for README.txt."""
    shutil.rmtree(folder / "videos", ignore_errors=True)
    shown = films()
    for film in shown:
        path = folder / "videos" / film.path
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, pixels(film), film.fps, film.encoding)
    for name, text in annotations(shown).items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _moving(random: Random, direction: str) -> Scene:
    return next(scene for scene in iter(lambda: sample_scene(random, "move"), None) if _way(scene) == direction)


def _way(scene: Scene) -> str | None:
    return scene.things[0].direction


def _joined(random: Random) -> Iterator[tuple[Scene, ...]]:
    """Pairs of scenes with one thing each, in which everything that can be asked has another answer."""
    while True:
        one, two = (sample_scene(random, "move") for _ in range(2))
        first, second = one.things[0], two.things[0]
        is_equal = (first.colour == second.colour, first.shape == second.shape, _way(one) == _way(two))
        if not any(is_equal):
            yield one, two


def _film(random: Random, number: int, scenes: tuple[Scene, ...]) -> Film:
    name, encoding = f"v{number:02d}", ENCODINGS[number % len(ENCODINGS)]
    return Film(
        name=name,
        path=f"{FOLDERS[number % len(FOLDERS)]}/{name}{encoding.suffix}".lstrip("/"),
        scenes=scenes,
        size=random.choice(SIZES),
        fps=random.choice(RATES),
        noise=random.getrandbits(32),
        encoding=encoding,
    )


def _asked(shown: Iterable[Film], random: Random, kinds: Sequence[str], *, each: int) -> Iterator[Asked]:
    """Yields `each` questions about each clip, of those kinds that came least so far."""
    asked = Counter[str]()
    for film in shown:
        found = {item.question: item for item in items(film.scenes[0], random) if item.kind in kinds}
        fitting = random.sample(list(found.values()), len(found))
        for item in sorted(fitting, key=lambda item: asked[item.kind])[:each]:
            asked[item.kind] += 1
            yield Asked(film=film, item=item)


def _choice_rows(shown: Iterable[Film], random: Random) -> Iterator[dict[str, object]]:
    """Rows as MVBench and its like have them; each clip is named as an .mp4, whatever it is."""
    for number, asked in enumerate(_asked(shown, random, KINDS, each=3), 1):
        things = asked.film.scenes[0].things
        tempting = {way(thing) for thing in things} - {asked.item.answer} if asked.item.kind == BESIDE else ()
        yield {
            "question_id": f"choices_{number}",
            "video": f"{asked.film.name}.mp4",
            "question": asked.item.question,
            "candidates": _options([asked.item.answer], random, *tempting),
            "answer": asked.item.answer,
            "type": asked.item.kind,
        }


def _options(right: Sequence[str], random: Random, *tempting: str) -> list[str]:
    """Returns right answers among wrong ones of their kind: ["Red."] → ["Blue.", "Red.", "Green.", "Purple."]."""
    options = [*right, *tempting]
    wrong = sorted(_wrong(right[0]) - {*options})
    options += random.sample(wrong, min(OPTIONS - len(options), len(wrong)))
    random.shuffle(options)
    return options


def _wrong(answer: str) -> set[str]:
    """Returns answers that have another word of one family: "A red star grows." → "A blue star grows.", …"""
    if answer in WAYS:
        return {*WAYS} - {answer}
    if answer == NOTHING_MOVES:
        return {f"The {shape} moves." for shape in SHAPES}
    words = answer.rstrip(".").lower().split()
    families = FAMILIES if words[0] == "it" else FAMILIES[1:]
    swapped = {
        " ".join([*words[:place], other, *words[place + 1 :]])
        for family in families
        for place, word in enumerate(words)
        for other in family
        if word in family and other not in words
    }
    return {sentence(each) for each in swapped}


def _open_rows(shown: Iterable[Film], random: Random) -> Iterator[dict[str, object]]:
    """Rows as open benchmarks have them: the clip without its ending, and the answer in small letters."""
    for number, asked in enumerate(_asked(shown, random, KINDS, each=2), 1):
        yield {
            "video_name": asked.film.name,
            "question": asked.item.question,
            "answer": _plain(asked.item.answer),
            "type": asked.item.kind,
            "question_id": f"open_{number}",
        }


def _moment_rows(shown: Iterable[Film], random: Random) -> Iterator[dict[str, object]]:
    """Rows as NExT-QA has them, an option a column and the answer's place; the same question about both parts."""
    number = 0
    for film, kind in product((film for film in shown if len(film.scenes) > 1), PART_KINDS):
        question = random.choice(PART_KINDS[kind])
        rights = [next(item.answer for item in items(scene, random) if item.kind == kind) for scene in film.scenes]
        options = _options(rights, random)
        for part, right in enumerate(rights):
            number += 1
            yield {
                "video": film.name,
                "start": part * SHOT_S,
                "end": (part + 1) * SHOT_S,
                "question": question,
                "answer": options.index(right),
                **{f"a{place}": option for place, option in enumerate(options)},
                "type": kind,
                "qid": f"moments_{number}",
            }


def _plain(answer: str) -> str:
    return answer.rstrip(".").lower()


def _listed(rows: Iterable[dict[str, object]]) -> str:
    return f"{json.dumps(list(rows), indent=1)}\n"


def _table(rows: Iterable[dict[str, object]], delimiter: str) -> str:
    text, its = io.StringIO(), list(rows)
    writer = csv.DictWriter(text, list(its[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(its)
    return text.getvalue()


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else BENCHMARK)

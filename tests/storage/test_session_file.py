"""A session comes back as it was written, turn by turn; a hostile file is refused in one sentence."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.refusals import refused
from vllava_cli import __version__
from vllava_cli.answers import Sampling, Stats, Turn
from vllava_cli.errors import LockedError, OutputError, SessionError
from vllava_cli.media.fingerprint import Fingerprint
from vllava_cli.nouns import Framing
from vllava_cli.storage import session_file as session_module
from vllava_cli.storage.files import is_locked
from vllava_cli.storage.session_file import (
    MediumRecord,
    SessionRecord,
    TurnRecord,
    begin,
    create,
    read,
    resume,
    sessions,
    sessions_folder,
    turn_row,
    undo_row,
)

NOW = datetime(2026, 11, 22, 19, 40, 5, tzinfo=UTC)
MEDIUM = MediumRecord(
    path=Path(os.fsdecode(b"/clips/caf\xe9.mp4")),
    kind="video",
    fingerprint=Fingerprint(bytes=1234, sha256="0123456789abcdef" * 4),
    framing=Framing(start_s=1.5, end_s=None, at_s=(), fit="pad"),
    times_s=(1.5, 2.5),
)
TURN = TurnRecord(
    turn=Turn(
        question="What is he doing?",
        answer="He is dancing.\n",
        answer_ids=(940, 338, 2),
        stop_reason="end",
        sampling=Sampling(seed=7),
        stats=Stats(prompt_tokens=2100, reused_tokens=3, new_tokens=3, first_token_s=0.5, decode_s=0.25),
    ),
    media=(MEDIUM,),
    ended_at="2026-11-22T19:41:00Z",
)
SECOND = replace(TURN, media=())
EMPTY = SessionRecord(model="demo", revision=None, fit="pad", started_at="2026-11-22T19:40:05Z")
SESSION = replace(EMPTY, turns=(TURN, SECOND))
HEADER_ROW = {
    "type": "session",
    "version": 1,
    "vllava": __version__,
    "model": "demo",
    "revision": None,
    "fit": "pad",
    "started_at": "2026-11-22T19:40:05Z",
}
TURN_ROW = {
    "type": "turn",
    "number": 1,
    "question": "What is he doing?",
    "answer": "He is dancing.\n",
    "answer_ids": [940, 338, 2],
    "stop_reason": "end",
    "probabilities": [],
    "media": [
        {
            "path": "/clips/caf\\xe9.mp4",
            "path_bytes": "L2NsaXBzL2NhZukubXA0",
            "kind": "video",
            "bytes": 1234,
            "sha256": "0123456789abcdef" * 4,
            "framing": {"start_s": 1.5, "end_s": None, "at_s": []},
            "times_s": [1.5, 2.5],
        }
    ],
    "sampling": {
        "max_new_tokens": TURN.turn.sampling.max_new_tokens,
        "temperature": TURN.turn.sampling.temperature,
        "top_p": TURN.turn.sampling.top_p,
        "seed": TURN.turn.sampling.seed,
        "has_guard": TURN.turn.sampling.has_guard,
        "choices": [],
        "is_calibrated": False,
    },
    "stats": asdict(TURN.turn.stats),
    "ended_at": "2026-11-22T19:41:00Z",
}
UNDO_ROW = {"type": "undo", "number": 1, "media": []}

CHOSEN = replace(
    TURN,
    turn=replace(TURN.turn, stop_reason="choice", sampling=Sampling(choices=("yes", "no")), probabilities=(0.75, 0.25)),
)
turns = st.sampled_from([TURN, SECOND, CHOSEN])
steps = st.lists(st.tuples(st.none() | turns, st.integers(min_value=0)), max_size=6)
"""A turn or an undo, and where: counted modulo the places that there are."""


pytestmark = pytest.mark.usefixtures("in_a_folder")


@contextmanager
def some_path() -> Iterator[Path]:
    """For properties, which one fixture serves many times."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "x.jsonl"


def written(*rows: Mapping[str, object], name: str = "x.jsonl") -> Path:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(name)


def rows_in(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fault_of() -> str:
    """What is said of x.jsonl between the name and the remedy."""
    found = re.fullmatch(
        r"'x\.jsonl' can't be used as a session: (.*)\. Name another file, or start a new session\.",
        refused(SessionError, read, Path("x.jsonl")),
    )
    assert found
    return found[1]


def test_the_file_is_a_header_a_row_for_each_turn_and_one_for_each_undo() -> None:
    with closing(create(Path("x.jsonl"), EMPTY)) as file:
        assert file.path == Path("x.jsonl")
        file.append(turn_row(1, TURN))
        file.append(undo_row(1))
    assert rows_in(Path("x.jsonl")) == [HEADER_ROW, TURN_ROW, UNDO_ROW]
    assert read(Path("x.jsonl")) == EMPTY


def test_keys_of_later_versions_are_ignored_and_a_file_from_before_there_were_choices_is_read() -> None:
    row = json.loads(json.dumps(TURN_ROW))
    del row["probabilities"], row["sampling"]["choices"], row["sampling"]["is_calibrated"]
    del row["stats"]["stray_tokens"]  # younger still
    row |= {"a key of a later version": [1]}
    assert read(written(HEADER_ROW, row)).turns == (TURN,)


@given(start=st.lists(turns, max_size=2), steps=steps)
@settings(max_examples=60)
def test_any_course_of_turns_and_undos_comes_back(start: list[TurnRecord], steps: list[Any]) -> None:
    expected = list(start)
    with some_path() as path:
        create(path, replace(EMPTY, turns=tuple(expected))).close()
        for turn, place in steps:
            number = 1 + place % (len(expected) + 1)
            file, record = resume(path)
            with closing(file):
                assert record == replace(EMPTY, turns=tuple(expected))
                del expected[number - 1 :]
                if turn:
                    expected.append(turn)
                    file.append(turn_row(number, turn))
                else:
                    file.append(undo_row(number))
        assert read(path) == replace(EMPTY, turns=tuple(expected))


def test_a_torn_last_turn_is_left_out_and_cut_off_when_the_session_is_continued() -> None:
    path = Path("x.jsonl")
    create(path, SESSION).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "turn", "num')
    assert read(path) == SESSION
    file, record = resume(path)
    with closing(file), pytest.raises(LockedError):
        resume(path)
    assert (record, read(path)) == (SESSION, SESSION)
    assert path.read_bytes() == whole


def test_a_session_and_the_folders_made_for_it_are_for_their_user_alone() -> None:
    Path("there").mkdir(mode=0o755)
    path = Path("there/state/sessions/x.jsonl")
    create(path, EMPTY).close()
    path.write_bytes(b"")
    create(path, EMPTY).close()  # an empty file is as good as none
    assert read(path) == EMPTY
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, *list(path.parents)[:3])]
    assert modes == [0o600, 0o700, 0o700, 0o755]


def test_create_touches_nothing_that_is_there() -> None:
    Path("folder").mkdir()
    for name, data in (("clip.mp4", b"\0ftyp"), ("x.json", b'{"a": 1}'), ("x.jsonl", b'{"a": 1}\n{"torn')):
        Path(name).write_bytes(data)
        assert refused(OutputError, create, Path(name), EMPTY) == f"'{name}' is already there. Name another file."
        assert Path(name).read_bytes() == data
    with pytest.raises(OutputError, match=r"^'folder' is a folder\. Name a file\.$"):
        create(Path("folder"), EMPTY)
    assert refused(OutputError, create, Path("clip.mp4/x.jsonl"), EMPTY) == (
        "'clip.mp4/x.jsonl' can't be written: not a directory. Check the path, or name another file."
    )


def test_a_session_that_came_first_is_not_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("x.jsonl")
    broken = replace(TURN.turn, stats=replace(TURN.turn.stats, decode_s=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        create(path, replace(EMPTY, turns=(replace(TURN, turn=broken),)))
    assert not path.exists(), "a session that could not be begun leaves a file"
    monkeypatch.setattr(session_module, "_check_free", lambda _path: written(HEADER_ROW, TURN_ROW))
    with pytest.raises(OutputError, match=r"^'x\.jsonl' is already there"):
        create(path, EMPTY)
    assert rows_in(path) == [HEADER_ROW, TURN_ROW]
    assert not is_locked(path)


def test_sessions_that_begin_in_the_same_second_get_names_of_their_own_in_utc() -> None:
    """Names sort by time; a link to nowhere and a file that another process makes first are passed over."""
    folder = Path("sessions")
    folder.mkdir()
    (folder / "2026-11-22T19-40-05Z_3.jsonl").symlink_to("nowhere")
    here = NOW.astimezone(timezone(timedelta(hours=2)))
    files = [begin(folder, EMPTY, moment) for moment in (NOW, here, NOW)]
    names = [file.path.name for file in files]
    assert names == sorted(names) == [f"2026-11-22T19-40-05Z{end}.jsonl" for end in ("", "_2", "_4")]
    for file in files:
        file.close()
    Path("file").touch()
    with pytest.raises(OutputError, match=r"^'file/2026-11-22T19-40-05Z\.jsonl' can't be written: not a directory"):
        begin(Path("file"), EMPTY, NOW)


def test_the_session_written_to_last_comes_first_and_only_what_can_be_read_comes() -> None:
    folder = Path("sessions")
    assert list(sessions(folder)) == []
    folder.mkdir()
    assert list(sessions(folder)) == []
    for name, age_s in (("a", 30), ("b", 10), ("c", 20), ("d", 10)):
        create(folder / f"{name}.jsonl", EMPTY).close()
        os.utime(folder / f"{name}.jsonl", (1e9 - age_s, 1e9 - age_s))
    assert [path.stem for path, _ in sessions(folder)] == ["d", "b", "c", "a"]
    (folder / "e.jsonl").write_text("{")
    (folder / "f.jsonl").mkdir()
    os.mkfifo(folder / "g.jsonl")
    (folder / "notes.txt").write_text("newer")
    (folder / "d.jsonl").unlink()
    assert [path.stem for path, _ in sessions(folder)] == ["b", "c", "a"]


def test_sessions_are_kept_where_the_system_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert sessions_folder() == Path("/somewhere/state/vllava/sessions")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\0ftyp\n\0\n", "'x.jsonl' was not written by vllava. Name another file."),
        (b"", "'x.jsonl' can't be used as a session: it is empty. Name another file, or start a new session."),
        (
            b'{"job": 1}\n{"torn',
            "'x.jsonl' can't be used as a session: line 1: type is missing. Name another file, or start a new session.",
        ),
        (None, "'x.jsonl' can't be read: no such file or directory. Check the path, or name another file."),
    ],
)
def test_what_is_no_session_is_refused_untouched(data: bytes | None, fault: str) -> None:
    path = Path("x.jsonl")
    if data is not None:
        path.write_bytes(data)
    assert refused(SessionError, resume, path) == fault
    assert data is None or path.read_bytes() == data


def test_a_session_that_is_too_long_is_not_read() -> None:
    os.truncate(written(HEADER_ROW), (64 << 20) + 1)
    assert fault_of() == "it is larger than 64 MiB"


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (
            (HEADER_ROW | {"version": 2, "fit": "n"},),
            "its version is 2, but this vllava reads up to 1: update vllava",
        ),
        ((TURN_ROW,), "line 1: type is not one of session"),
        ((HEADER_ROW, HEADER_ROW), "line 2: type is not one of turn, undo"),
        ((HEADER_ROW, TURN_ROW | {"number": 2}), "line 2: number is 2, but only 0 turns came before"),
        ((HEADER_ROW, TURN_ROW, UNDO_ROW | {"number": 3}), "line 3: number is 3, but only 1 turns came before"),
        ((HEADER_ROW | {"version": 0},), "line 1: version is not a whole number from 1"),
        ((HEADER_ROW | {"version": True},), "line 1: version is not a whole number from 1"),
        ((HEADER_ROW | {"revision": 1},), "line 1: revision is not a text"),
        ((HEADER_ROW | {"model": ""},), "line 1: model is empty"),
        ((HEADER_ROW | {"fit": "CROP"},), "line 1: fit is not one of crop, pad, squash"),
        ((HEADER_ROW | {"started_at": "2026-13-01T00:00:00Z"},), "line 1: started_at is not a date with a time"),
        (({"type": "session", "version": 1},), "line 1: model is missing"),
    ],
)
def test_rows_that_make_no_session_are_refused(rows: tuple[dict[str, object], ...], fault: str) -> None:
    written(*rows)
    assert fault_of() == fault


INFINITE = "an infinity spelled as a number"
WHOLE = "not a whole number from 0"
SECONDS = "not a number from 0 to 9.22337e+18"
STOPS = "end, length, context, repetition, interrupted, choice, unsure"
FRAMING = "media, entry 1, framing"
AT_S = f"{FRAMING}: at_s"


@pytest.mark.parametrize(
    ("place", "values", "fault"),
    [
        (("number",), (0, 1.0, True, "1", None), "number is not a whole number from 1"),
        (("question",), (None, 1, []), "question is not a text"),
        (("answer_ids",), (None, 1, "2", {}), "answer_ids is not a list"),
        (("answer_ids", 1), (-1, 1.0, True, "1", None, 2**63, 10**400), f"answer_ids: entry 2 is {WHOLE}"),
        (("stop_reason",), ("", "stop", None), f"stop_reason is not one of {STOPS}"),
        (("probabilities",), ([0.5],), "probabilities is 1 numbers for 0 choices"),
        (("probabilities",), ([-0.1], [1.1], ["1"], [None]), "probabilities: entry 1 is not a number from 0 to 1"),
        (("sampling",), (None, []), "sampling is not an object"),
        (("sampling", "choices"), (["yes", 1],), "sampling, choices: entry 2 is not a text"),
        (("sampling", "max_new_tokens"), (0, "1", None), "sampling: max_new_tokens is not a whole number from 1"),
        (("sampling", "temperature"), (-1, 101, None), "sampling: temperature is not a number from 0 to 100"),
        (("sampling", "top_p"), (-0.1, 1.1, None), "sampling: top_p is not a number from 0 to 1"),
        (("sampling", "has_guard"), (0, 1, None), "sampling: has_guard is neither true nor false"),
        (("stats", "tower_calls"), (-1, None), f"stats: tower_calls is {WHOLE}"),
        (("stats", "decode_s"), (-1, "1", True, [], 10**400, INFINITE), f"stats: decode_s is {SECONDS}"),
        (("stats", "peak_bytes"), (-1, 1.0), f"stats: peak_bytes is {WHOLE}"),
        (("media", 0), (None, [], "x"), "media: entry 1 is not an object"),
        (("media", 0, "path"), ("", "clip.mp4", "/a\0", "/\ud800"), "media, entry 1: path is not an absolute path"),
        (("media", 0, "kind"), ("audio", None), "media, entry 1: kind is not one of video, image"),
        (("media", 0, "sha256"), ("", "0" * 63, "G" * 64, "0" * 64 + "\n"), "media, entry 1: sha256 is not a SHA-256"),
        (("media", 0, "framing", "start_s"), ("1", -1), f"media, entry 1, framing: start_s is {SECONDS}"),
        (("media", 0, "framing", "pick"), (1, "all"), f"{FRAMING}: pick is not one of uniform, scenes, keyframes"),
        (("media", 0, "framing", "shift"), (1, "half"), f"{FRAMING}: shift is not a number from 0 to 0.9375"),
        (("media", 0, "framing", "at_s"), ([0] * 9,), f"{AT_S} is a list of 9, but at most 8 are allowed"),
        (("ended_at",), ("", "now"), "ended_at is not a date with a time"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) and "media" in value else None,
)
def test_a_wrong_field_of_a_turn_is_refused(
    place: tuple[str | int, ...], values: tuple[object, ...], fault: str
) -> None:
    for value in values:
        row = json.loads(json.dumps(TURN_ROW))
        put(row, place, value)
        # "media, entry 1: path …" → "line 2, media, entry 1: path …"; fields of the row itself: "line 2: answer …"
        sign = ", " if ": " in fault else ": "
        text = json.dumps(row).replace(f'"{INFINITE}"', "1e999")
        Path("x.jsonl").write_text(f"{json.dumps(HEADER_ROW)}\n{text}\n")
        assert fault_of() == f"line 2{sign}{fault}"


def put(row: Any, place: tuple[str | int, ...], value: object) -> None:
    for step in place[:-1]:
        row = row[step]
    row[place[-1]] = value


def places(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a row: ("media", 0, "path")."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (step,)
        yield from ((step, *rest) for rest in places(inner))


half_texts = st.text(st.characters(), max_size=30)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | half_texts
    | st.sampled_from(["turn", "end", "/a", 10**30]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
VALID = [HEADER_ROW, TURN_ROW, TURN_ROW | {"number": 2}, UNDO_ROW | {"number": 2}]
changes = st.lists(st.tuples(st.sampled_from(list(places(VALID))), anything), min_size=1, max_size=3)


@given(changes=changes)
@settings(max_examples=300)
def test_any_other_value_anywhere_is_read_or_refused(changes: list[tuple[tuple[str | int, ...], object]]) -> None:
    rows = json.loads(json.dumps(VALID))
    for place, value in changes:
        try:
            put(rows, place, value)
        except (TypeError, LookupError):
            continue  # an earlier change took that place away
    with some_path() as path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            record = read(path)
        except SessionError as exc:
            assert str(exc).count(str(path)) == 1
            return
        copy = path.with_name("copy.jsonl")
        create(copy, record).close()
        assert read(copy) == record


@given(data=st.binary(max_size=200), keep=st.integers(min_value=0, max_value=2000))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(data: bytes, keep: int) -> None:
    valid = b"".join(json.dumps(row).encode() + b"\n" for row in VALID)
    with some_path() as path:
        path.write_bytes(valid[:keep] + data + valid[keep:])
        try:
            read(path)
        except SessionError:
            return

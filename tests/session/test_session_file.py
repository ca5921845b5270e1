"""A session comes back as it was written, turn by turn; a hostile file is refused in one sentence."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllava_cli import __version__
from vllava_cli.errors import LockedError, OutputError, SessionError
from vllava_cli.nouns import Framing, MediaKind, Sampling, Stats, StopReason
from vllava_cli.session import session_file as session_module
from vllava_cli.session.session_file import (
    MediumRecord,
    SessionFile,
    SessionRecord,
    TurnRecord,
    difference,
    fingerprint,
    new_path,
    read,
    sessions,
    sessions_folder,
    write_copy,
)
from vllava_cli.storage.files import is_locked

NOW = datetime(2026, 11, 22, 19, 40, 5, tzinfo=UTC)
MEDIUM = MediumRecord(
    path=Path(os.fsdecode(b"/clips/caf\xe9.mp4")),
    kind="video",
    bytes=1234,
    sha256="0123456789abcdef" * 4,
    framing=Framing(start_s=1.5, end_s=None, at_s=(), fit="pad"),
    times_s=(1.5, 2.5),
)
TURN = TurnRecord(
    number=1,
    question="What is he doing?",
    answer="He is dancing.\n",
    answer_ids=(940, 338, 2),
    stop_reason="end",
    media=(MEDIUM,),
    sampling=Sampling(seed=7),
    stats=Stats(prompt_tokens=2100, reused_tokens=3, new_tokens=3, first_token_s=0.5, decode_s=0.25),
    ended_at="2026-11-22T19:41:00Z",
)
EMPTY = SessionRecord(model="demo", revision=None, fit="pad", started_at="2026-11-22T19:40:05Z")
SESSION = replace(EMPTY, turns=(TURN, replace(TURN, number=2, media=())))
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
        "max_new_tokens": 512,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 7,
        "has_guard": True,
        "choices": [],
        "is_calibrated": False,
    },
    "stats": {
        "prompt_tokens": 2100,
        "reused_tokens": 3,
        "new_tokens": 3,
        "stray_tokens": 0,
        "tower_calls": 0,
        "first_token_s": 0.5,
        "decode_s": 0.25,
        "frames_s": 0.0,
        "load_s": 0.0,
        "peak_bytes": None,
    },
    "ended_at": "2026-11-22T19:41:00Z",
}
UNDO_ROW = {"type": "undo", "number": 1, "media": []}

times = st.floats(min_value=0, max_value=1e9)
counts = st.integers(min_value=0, max_value=2**63 - 1)
paths = st.binary(min_size=1, max_size=20).map(lambda name: Path("/" + os.fsdecode(name.replace(b"\0", b"0"))))
moments = st.datetimes(min_value=datetime(2000, 1, 1)).map(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%SZ}")
texts = st.text(max_size=30) | st.binary(max_size=30).map(os.fsdecode)  # all that a terminal or a pipe can give


@st.composite
def media(draw: st.DrawFn) -> MediumRecord:
    at_s = tuple(draw(st.lists(times, max_size=3)))
    trim = st.none() if at_s else st.none() | times
    return MediumRecord(
        path=draw(paths),
        kind=draw(st.sampled_from(get_args(MediaKind))),
        bytes=draw(counts),
        sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        framing=Framing(start_s=draw(trim), end_s=draw(trim), at_s=at_s, fit="pad"),
        times_s=tuple(draw(st.lists(times, max_size=8))),
    )


shares = st.floats(min_value=0, max_value=1)
scored = st.lists(st.tuples(texts, shares), max_size=3).map(lambda pairs: tuple(zip(*pairs, strict=True)) or ((), ()))
"""Choices and their probabilities."""
samplings = st.builds(
    Sampling,
    max_new_tokens=st.integers(min_value=1, max_value=4096),
    temperature=st.floats(min_value=0, max_value=100),
    top_p=shares,
    seed=st.none() | counts,
    has_guard=st.booleans(),
    is_calibrated=st.booleans(),
)
plain_turns = st.builds(
    TurnRecord,
    number=st.just(1),
    question=texts,
    answer=texts,
    answer_ids=st.lists(counts, max_size=5).map(tuple),
    stop_reason=st.sampled_from(get_args(StopReason)),
    media=st.lists(media(), max_size=2).map(tuple),
    sampling=samplings,
    stats=st.builds(
        Stats,
        prompt_tokens=counts,
        reused_tokens=counts,
        new_tokens=counts,
        tower_calls=counts,
        first_token_s=times,
        decode_s=times,
        frames_s=times,
        load_s=times,
        peak_bytes=st.none() | counts,
    ),
    ended_at=moments,
)
turns = st.tuples(plain_turns, scored).map(
    lambda both: replace(both[0], sampling=replace(both[0].sampling, choices=both[1][0]), probabilities=both[1][1])
)
steps = st.lists(st.tuples(st.none() | turns, st.integers(min_value=0)), max_size=6)
"""A turn or an undo, and where: counted modulo the places that there are."""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)


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


def message_for(path: Path) -> str:
    with pytest.raises(SessionError) as caught:
        read(path)
    return str(caught.value)


def fault_of(*rows: Mapping[str, object]) -> str:
    """What is said between the name and the remedy."""
    message = message_for(written(*rows))
    start, end = "'x.jsonl' can't be used as a session: ", ". Name another file, or start a new session."
    assert message.startswith(start)
    assert message.endswith(end)
    return message.removeprefix(start).removesuffix(end)


def test_the_file_is_a_header_a_row_for_each_turn_and_one_for_each_undo() -> None:
    with SessionFile.create(Path("x.jsonl"), EMPTY) as file:
        assert file.path == Path("x.jsonl")
        file.append_turn(TURN)
        file.append_undo(1)
    assert rows_in(Path("x.jsonl")) == [HEADER_ROW, TURN_ROW, UNDO_ROW]
    assert read(Path("x.jsonl")) == EMPTY


CHOSEN = replace(
    TURN,
    answer="no",
    stop_reason="choice",
    sampling=Sampling(choices=("yes", "no"), is_calibrated=True),
    probabilities=(0.25, 0.75),
)


def test_a_turn_that_was_chosen_comes_back_with_its_probabilities() -> None:
    SessionFile.create(Path("x.jsonl"), replace(EMPTY, turns=(CHOSEN,))).close()
    row = rows_in(Path("x.jsonl"))[1]
    assert (row["probabilities"], row["sampling"]["choices"]) == ([0.25, 0.75], ["yes", "no"])
    assert read(Path("x.jsonl")).turns == (CHOSEN,)


def test_a_file_from_before_there_were_choices_is_read() -> None:
    row = json.loads(json.dumps(TURN_ROW))
    del row["probabilities"], row["sampling"]["choices"], row["sampling"]["is_calibrated"]
    del row["stats"]["stray_tokens"]  # younger still
    assert read(written(HEADER_ROW, row)).turns == (TURN,)


def test_a_session_with_turns_is_created_whole_and_resumed() -> None:
    SessionFile.create(Path("x.jsonl"), SESSION).close()
    file, record = SessionFile.resume(Path("x.jsonl"))
    with file:
        assert record == SESSION
        file.append_turn(replace(TURN, number=3))
    assert read(Path("x.jsonl")) == replace(SESSION, turns=(*SESSION.turns, replace(TURN, number=3)))


def test_a_turn_replaces_that_of_its_number_and_all_behind_it() -> None:
    other = replace(TURN, answer="He is resting.")
    with SessionFile.create(Path("x.jsonl"), SESSION) as file:
        file.append_turn(other)
    assert read(Path("x.jsonl")).turns == (other,)


def test_an_undo_forgets_the_turn_of_its_number_and_all_behind_it() -> None:
    with SessionFile.create(Path("x.jsonl"), SESSION) as file:
        file.append_undo(2)
        assert read(Path("x.jsonl")).turns == (TURN,)
        file.append_undo(1)
        assert read(Path("x.jsonl")).turns == ()


@given(start=st.lists(turns, max_size=2), steps=steps)
@settings(max_examples=60)
def test_any_course_of_turns_and_undos_comes_back(start: list[TurnRecord], steps: list[Any]) -> None:
    kept = [replace(turn, number=number) for number, turn in enumerate(start, 1)]
    with some_path() as path:
        SessionFile.create(path, replace(EMPTY, turns=tuple(kept))).close()
        for turn, place in steps:
            number = 1 + place % (len(kept) + 1)
            file, record = SessionFile.resume(path)
            with file:
                assert record == replace(EMPTY, turns=tuple(kept))
                del kept[number - 1 :]
                if turn:
                    kept.append(replace(turn, number=number))
                    file.append_turn(kept[-1])
                else:
                    file.append_undo(number)
        assert read(path) == replace(EMPTY, turns=tuple(kept))


def test_a_number_beyond_the_next_is_our_own_mistake() -> None:
    with SessionFile.create(Path("x.jsonl"), EMPTY) as file:
        for number in (0, 2):
            with pytest.raises(ValueError, match=f"turn {number} after 0"):
                file.append_turn(replace(TURN, number=number))
            with pytest.raises(ValueError, match=f"turn {number} after 0"):
                file.append_undo(number)
        file.append_turn(TURN)
        file.append_turn(replace(TURN, number=2))
        file.append_undo(1)
        with pytest.raises(ValueError, match="turn 2 after 0"):
            file.append_turn(replace(TURN, number=2))
    assert read(Path("x.jsonl")) == EMPTY


def test_a_torn_last_turn_is_left_out_and_cut_off_at_the_next_resume() -> None:
    path = Path("x.jsonl")
    SessionFile.create(path, SESSION).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "turn", "num')
    assert read(path) == SESSION
    file, record = SessionFile.resume(path)
    file.close()
    assert record == SESSION
    assert path.read_bytes() == whole


def test_a_session_in_use_can_be_read_but_not_resumed_nor_replaced() -> None:
    path = Path("x.jsonl")
    with SessionFile.create(path, SESSION):
        assert read(path) == SESSION
        with pytest.raises(LockedError):
            SessionFile.resume(path)
        with pytest.raises(LockedError) as caught:
            write_copy(path, EMPTY, is_overwriting=True)
        assert str(caught.value) == "'x.jsonl' is the file of a chat that goes on. Name another file."
    assert read(path) == SESSION


def test_a_session_and_the_folders_made_for_it_are_for_their_user_alone() -> None:
    Path("there").mkdir(mode=0o755)
    path = Path("there/state/sessions/x.jsonl")
    SessionFile.create(path, EMPTY).close()
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, *list(path.parents)[:3])]
    assert modes == [0o600, 0o700, 0o700, 0o755]


def test_create_touches_nothing_that_is_there() -> None:
    Path("folder").mkdir()
    for name, data in (("clip.mp4", b"\0ftyp"), ("x.json", b'{"a": 1}'), ("x.jsonl", b'{"a": 1}\n{"torn')):
        Path(name).write_bytes(data)
        with pytest.raises(OutputError) as caught:
            SessionFile.create(Path(name), EMPTY)
        assert str(caught.value) == f"'{name}' is already there. Name another file."
        assert Path(name).read_bytes() == data
    with pytest.raises(OutputError, match=r"^'folder' is a folder\. Name a file\.$"):
        SessionFile.create(Path("folder"), EMPTY)
    with pytest.raises(OutputError) as caught:
        SessionFile.create(Path("clip.mp4/x.jsonl"), EMPTY)
    assert str(caught.value) == (
        "'clip.mp4/x.jsonl' can't be written: not a directory. Check the path, or name another file."
    )


def test_a_session_that_came_first_is_not_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("x.jsonl")
    monkeypatch.setattr(session_module, "_check_free", lambda _path: written(HEADER_ROW, TURN_ROW))
    with pytest.raises(OutputError, match=r"^'x\.jsonl' is already there"):
        SessionFile.create(path, EMPTY)
    assert rows_in(path) == [HEADER_ROW, TURN_ROW]
    assert not is_locked(path)


def test_a_session_may_start_in_an_empty_file() -> None:
    Path("x.jsonl").touch()
    SessionFile.create(Path("x.jsonl"), EMPTY).close()
    assert read(Path("x.jsonl")) == EMPTY


def test_a_session_that_could_not_be_begun_leaves_no_file() -> None:
    broken = replace(EMPTY, turns=(replace(TURN, stats=replace(TURN.stats, decode_s=float("nan"))),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        SessionFile.create(Path("x.jsonl"), broken)
    assert list(Path().iterdir()) == []


def test_sessions_that_begin_in_the_same_second_get_names_of_their_own() -> None:
    folder = Path("sessions")
    with SessionFile.begin(folder, EMPTY, NOW) as first, SessionFile.begin(folder, EMPTY, NOW) as second:
        assert first.path == folder / "2026-11-22T19-40-05Z.jsonl"
        assert second.path == folder / "2026-11-22T19-40-05Z_2.jsonl"
    Path("file").touch()
    with pytest.raises(OutputError, match=r"^'file/2026-11-22T19-40-05Z\.jsonl' can't be written: not a directory"):
        SessionFile.begin(Path("file"), EMPTY, NOW)


def test_a_name_that_another_took_first_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SessionFile.create(new_path(Path(), NOW), EMPTY)
    names = iter([other.path, other.path, Path("free.jsonl")])
    monkeypatch.setattr(session_module, "new_path", lambda *_: next(names))
    with other, SessionFile.begin(Path(), EMPTY, NOW) as file:
        assert file.path == Path("free.jsonl")


def test_names_are_in_utc_and_free() -> None:
    assert new_path(Path("a"), NOW.astimezone(timezone(timedelta(hours=2)))) == Path("a/2026-11-22T19-40-05Z.jsonl")
    taken = [new_path(Path(), NOW)]
    for _ in range(3):
        taken[-1].symlink_to("nowhere")
        taken.append(new_path(Path(), NOW))
    assert [path.name for path in taken] == sorted(path.name for path in taken)
    assert taken[-1] == Path("2026-11-22T19-40-05Z_4.jsonl")


def test_the_session_written_to_last_comes_first_and_only_what_can_be_read_comes() -> None:
    folder = Path("sessions")
    assert list(sessions(folder)) == []
    folder.mkdir()
    assert list(sessions(folder)) == []
    for name, age_s in (("a", 30), ("b", 10), ("c", 20), ("d", 10)):
        SessionFile.create(folder / f"{name}.jsonl", EMPTY).close()
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


def test_a_copy_is_the_session_without_what_was_undone() -> None:
    with SessionFile.create(Path("x.jsonl"), SESSION) as file:
        file.append_undo(2)
        write_copy(Path("copy.jsonl"), read(file.path), is_overwriting=False)
    assert rows_in(Path("copy.jsonl")) == [HEADER_ROW, TURN_ROW]
    assert sorted(path.name for path in Path().iterdir()) == ["copy.jsonl", "x.jsonl"]


def test_a_copy_replaces_a_file_only_by_force() -> None:
    Path("copy.jsonl").write_text("mine")
    with pytest.raises(OutputError, match=r"^'copy\.jsonl' is already there\. Name another file\.$"):
        write_copy(Path("copy.jsonl"), SESSION, is_overwriting=False)
    assert Path("copy.jsonl").read_text() == "mine"
    write_copy(Path("copy.jsonl"), SESSION, is_overwriting=True)
    assert read(Path("copy.jsonl")) == SESSION
    assert not is_locked(Path("copy.jsonl"))


@pytest.mark.parametrize("is_overwriting", [False, True])
def test_a_copy_that_cannot_be_written_is_told_and_leaves_nothing(is_overwriting: bool) -> None:
    Path("folder").mkdir()
    too_long = "x" * 300
    faults = {
        "folder": "'folder' is a folder. Name a file.",
        "/dev/null": "'/dev/null' is already there. Name another file.",
        "none/copy": "'none/copy' can't be written: no such file or directory. Check the path, or name another file.",
        too_long: f"'{too_long}' can't be written: file name too long. Check the path, or name another file.",
    }
    for name, message in faults.items():
        with pytest.raises(OutputError) as caught:
            write_copy(Path(name), SESSION, is_overwriting=is_overwriting)
        assert str(caught.value) == message
    assert [path.name for path in Path().rglob("*")] == ["folder"]


def test_a_clip_is_as_recorded_or_the_difference_is_told(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a" * 1234)
    seen = fingerprint(path)
    record = replace(MEDIUM, path=path, bytes=seen.bytes, sha256=seen.sha256)
    assert difference(record) is None
    path.write_bytes(b"b" * 1234)
    assert difference(record) == f"'{path}' has changed since: as many bytes as then, other content."
    path.unlink()
    assert difference(record) == f"There is no file '{path}' any more."


def test_what_is_no_session_is_refused_untouched() -> None:
    data = {"clip.mp4": b"\0ftyp\n\0\n", "empty": b"", "one.json": b'{"a": 1}', "batch.jsonl": b'{"job": 1}\n{"torn'}
    faults = {
        "clip.mp4": "'clip.mp4' was not written by vllava. Name another file.",
        "empty": "'empty' can't be used as a session: it is empty. Name another file, or start a new session.",
        "one.json": "'one.json' can't be used as a session: line 1: type is missing. "
        "Name another file, or start a new session.",
        "batch.jsonl": "'batch.jsonl' can't be used as a session: line 1: type is missing. "
        "Name another file, or start a new session.",
    }
    for name, fault in faults.items():
        Path(name).write_bytes(data[name])
        with pytest.raises(SessionError) as caught:
            SessionFile.resume(Path(name))
        assert str(caught.value) == fault
        assert Path(name).read_bytes() == data[name]
    assert message_for(Path("none")) == (
        "'none' can't be read: no such file or directory. Check the path, or name another file."
    )


def test_a_session_that_is_too_long_is_not_read() -> None:
    path = written(HEADER_ROW)
    os.truncate(path, (64 << 20) + 1)
    assert message_for(path) == (
        "'x.jsonl' can't be used as a session: it is larger than 64 MiB. Name another file, or start a new session."
    )


def test_unknown_keys_are_ignored() -> None:
    path = written(HEADER_ROW | {"new": 1}, TURN_ROW | {"new": [1]})
    assert read(path) == replace(EMPTY, turns=(TURN,))


def test_a_later_version_is_refused() -> None:
    assert fault_of(HEADER_ROW | {"version": 2, "fit": "new"}) == (
        "it is of version 2, and this vllava reads up to 1: update vllava"
    )


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ((TURN_ROW,), "line 1: type is none of session"),
        ((HEADER_ROW, HEADER_ROW), "line 2: type is none of turn, undo"),
        ((HEADER_ROW, TURN_ROW | {"number": 2}), "line 2: number is 2, but only 0 turns came before"),
        ((HEADER_ROW, TURN_ROW, UNDO_ROW | {"number": 3}), "line 3: number is 3, but only 1 turns came before"),
        ((HEADER_ROW, UNDO_ROW | {"number": 0}), "line 2: number is no whole number from 1"),
    ],
)
def test_rows_in_a_wrong_order_are_refused(rows: tuple[dict[str, object], ...], fault: str) -> None:
    assert fault_of(*rows) == fault


@pytest.mark.parametrize(
    ("key", "values", "fault"),
    [
        ("version", (0, 1.0, True, "1", None), "no whole number from 1"),
        ("model", (None, 1, ["demo"]), "no text"),
        ("revision", (1, {}), "no text"),
        ("model", ("",), "empty"),
        ("fit", ("CROP", None, 1, []), "none of crop, pad, squash"),
        ("started_at", ("", "yesterday", "2026-13-01T00:00:00Z"), "no date with a time"),
    ],
)
def test_a_wrong_field_of_the_header_is_refused(key: str, values: tuple[object, ...], fault: str) -> None:
    for value in values:
        assert fault_of(HEADER_ROW | {key: value}) == f"line 1: {key} is {fault}"
    assert fault_of({name: HEADER_ROW[name] for name in HEADER_ROW if name != key}) == f"line 1: {key} is missing"


WHOLE = "no whole number from 0"
NUMBER = "no number from -9.22337e+18 to 9.22337e+18"
STOPS = "end, length, context, repetition, interrupted, choice"
SECONDS = "no number from 0 to 9.22337e+18"
NO_WHOLES = (-1, 1.0, True, "1", None, 2**63, 10**400)
NO_NUMBERS = ("1", True, [], 10**400)


@pytest.mark.parametrize(
    ("place", "values", "fault"),
    [
        (("number",), (0, 1.0, True, "1", None), "number is no whole number from 1"),
        (("question",), (None, 1, []), "question is no text"),
        (("answer",), (None, 1, []), "answer is no text"),
        (("answer_ids",), (None, 1, "2", {}), "answer_ids is no list"),
        (("answer_ids", 1), NO_WHOLES, f"answer_ids: entry 2 is {WHOLE}"),
        (("stop_reason",), ("", "stop", None), f"stop_reason is none of {STOPS}"),
        (("probabilities",), (None, 1, {}), "probabilities is no list"),
        (("probabilities",), ([0.5],), "probabilities is 1 numbers for 0 choices"),
        (("probabilities",), ([-0.1], [1.1], ["1"], [None]), "probabilities: entry 1 is no number from 0 to 1"),
        (("sampling", "choices"), (None, "yes,no"), "sampling: choices is no list"),
        (("sampling", "choices"), (["yes", 1],), "sampling, choices: entry 2 is no text"),
        (("sampling", "is_calibrated"), (0, None), "sampling: is_calibrated is neither true nor false"),
        (("media",), (None, {}, "x"), "media is no list"),
        (("media", 0), (None, [], "x"), "media: entry 1 is no object"),
        (("media", 0, "path"), ("", "clip.mp4", "/a\0", "/\ud800"), "media, entry 1: path is no absolute path"),
        (("media", 0, "path"), (None, 1), "media, entry 1: path is no text"),
        (("media", 0, "kind"), ("audio", None), "media, entry 1: kind is none of video, image"),
        (("media", 0, "bytes"), NO_WHOLES, f"media, entry 1: bytes is {WHOLE}"),
        (("media", 0, "sha256"), ("", "0" * 63, "G" * 64, "0" * 64 + "\n"), "media, entry 1: sha256 is no SHA-256"),
        (("media", 0, "framing"), (None, []), "media, entry 1: framing is no object"),
        (("media", 0, "framing", "start_s"), NO_NUMBERS, f"media, entry 1, framing: start_s is {NUMBER}"),
        (("media", 0, "framing", "end_s"), NO_NUMBERS, f"media, entry 1, framing: end_s is {NUMBER}"),
        (("media", 0, "framing", "at_s"), (None, 1), "media, entry 1, framing: at_s is no list"),
        (
            ("media", 0, "framing", "at_s"),
            ([0] * 9,),
            "media, entry 1, framing: at_s is a list of 9 where at most 8 can be",
        ),
        (("media", 0, "times_s"), (None, 1), "media, entry 1: times_s is no list"),
        (("media", 0, "times_s", 0), (*NO_NUMBERS, None), f"media, entry 1, times_s: entry 1 is {NUMBER}"),
        (("sampling",), (None, []), "sampling is no object"),
        (("sampling", "max_new_tokens"), (0, "1", None), "sampling: max_new_tokens is no whole number from 1"),
        (("sampling", "temperature"), (-1, 101, None), "sampling: temperature is no number from 0 to 100"),
        (("sampling", "top_p"), (-0.1, 1.1, None), "sampling: top_p is no number from 0 to 1"),
        (("sampling", "seed"), (-1, 1.5, "7"), f"sampling: seed is {WHOLE}"),
        (("sampling", "has_guard"), (0, 1, None), "sampling: has_guard is neither true nor false"),
        (("stats",), (None, []), "stats is no object"),
        (("stats", "prompt_tokens"), NO_WHOLES, f"stats: prompt_tokens is {WHOLE}"),
        (("stats", "reused_tokens"), NO_WHOLES, f"stats: reused_tokens is {WHOLE}"),
        (("stats", "new_tokens"), NO_WHOLES, f"stats: new_tokens is {WHOLE}"),
        (("stats", "first_token_s"), (-1, *NO_NUMBERS), f"stats: first_token_s is {SECONDS}"),
        (("stats", "decode_s"), (-1, *NO_NUMBERS), f"stats: decode_s is {SECONDS}"),
        (("stats", "frames_s"), (-1, *NO_NUMBERS), f"stats: frames_s is {SECONDS}"),
        (("stats", "load_s"), (-1, *NO_NUMBERS), f"stats: load_s is {SECONDS}"),
        (("stats", "peak_bytes"), (-1, 1.0), f"stats: peak_bytes is {WHOLE}"),
        (("ended_at",), ("", "now"), "ended_at is no date with a time"),
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
        assert fault_of(HEADER_ROW, row) == f"line 2{sign}{fault}"


def test_an_infinity_spelled_as_a_number_is_refused() -> None:
    row = json.dumps(TURN_ROW).replace('"decode_s": 0.25', '"decode_s": 1e999')
    path = written(HEADER_ROW)
    path.write_text(path.read_text() + row + "\n")
    assert "line 2, stats: decode_s is" in message_for(path)


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
        write_copy(copy, record, is_overwriting=False)
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

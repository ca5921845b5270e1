"""What a line of the chat means, and the commands that write files or show things."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.batch.parts import Terminal
from tests.commands.chat.conftest import CLIP, HAPPENS, Stage
from tests.commands.turns import turn
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.commands.chat.commands import COMMANDS, help_rows, perform
from vllava_cli.commands.chat.display import markdown
from vllava_cli.commands.chat.settings import SETTINGS
from vllava_cli.errors import LockedError, MediaError, OutputError, SessionError, UsageError
from vllava_cli.nouns import Framing
from vllava_cli.screen import Screen
from vllava_cli.storage.session_file import read

Make = Callable[..., Stage]
Calls = list[tuple[Any, ...]]
A, B = Path("a.mp4"), Path("b.mp4")
AS_STORED = Framing(fit="pad", is_as_stored=True)


class Listed:
    """A chat of two turns that lists what it is asked to read and to answer."""

    def __init__(self) -> None:
        self.conversation = Conversation(fit="pad", turns=[turn("What?"), turn("Why?")])
        self.is_as_stored = True
        self.questions = ("What?", "Why?")
        self.sampling = Sampling()
        self.screen = Screen(is_quiet=True)
        self.is_over = self.has_editor = False
        self.calls: Calls = []

    def read(self, clips: Any) -> None:
        self.calls.append(("read", clips))
        raise MediaError("it is only listed")

    def ask(self, question: str, **words: Any) -> None:
        self.calls.append(("ask", question, words))

    def question_of(self, number: int) -> None:
        self.calls.append(("question_of", number))


def calls_of(line: str) -> Calls:
    chat = Listed()
    with suppress(MediaError):
        perform(chat, line)  # type: ignore[arg-type]
    return [*chat.calls, *([("bye",)] if chat.is_over else [])]


def opened(*paths: Path, **framing: Any) -> tuple[Any, ...]:
    return ("read", tuple((path, replace(AS_STORED, **framing)) for path in paths))


def asked(question: str) -> tuple[Any, ...]:
    return ("ask", question, {})


def retried(**sampling: Any) -> tuple[Any, ...]:
    return ("ask", "Why?", {"sampling": Sampling(**sampling), "number": 2})


LINES: list[tuple[str, tuple[Any, ...]]] = [
    ("Why?", asked("Why?")),
    ("  Why?\n", asked("Why?")),
    (" /etc in the picture?", asked("/etc in the picture?")),
    ("/7 or /8?", asked("/7 or /8?")),
    ("/7" + "x" * 100_000, asked("/7" + "x" * 100_000)),
    ("a.mp4", asked("a.mp4")),
    ("/open a.mp4", opened(A)),
    ("/open a.mp4 b.mp4  ", opened(A, B)),
    ("/open --start 1:20 --end 1:30 a.mp4", opened(A, start_s=80.0, end_s=90.0)),
    ("/open --start 5 a.mp4 --start 6", opened(A, start_s=6.0)),
    ("/open -- --a.mp4", opened(Path("--a.mp4"))),
    ("/open -a.mp4", opened(Path("-a.mp4"))),
    ("/open 'my clip.mp4' it\\'s.mp4", opened(Path("my clip.mp4"), Path("it's.mp4"))),
    ("/open ~/a.mp4", opened(Path.home() / "a.mp4")),
    ("/open '~/a.mp4'", opened(Path("~/a.mp4"))),
    ("/add --at 1,2.5 a.mp4", opened(A, at_s=(1.0, 2.5))),
    ("/retry", retried()),
    ("/retry --top_p=0.9 --seed none", retried(top_p=0.9)),
    ("/retry --choices yes,no --calibrate on", retried(choices=("yes", "no"), is_calibrated=True)),
    *((line, ("bye",)) for line in ("/bye", "/bye ", "/exit", "/quit", "/q", "quit", "Exit ")),
    (" quit", asked("quit")),
]


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize(("line", "call"), LINES)
def test_lines(line: str, call: tuple[Any, ...]) -> None:
    assert calls_of(line) == [call]


OPEN = "/open [--start TIME] [--end TIME] [--at TIMES] PATH..."
RETRY = "/retry [--temperature X] [--top-p X] ..."
REFUSED = [
    ("", "The question is empty: type one, or /help."),
    ("/frmaes", "There is no /frmaes. Did you mean /frames? /help lists the commands."),
    ("/s", "There is no /s. Did you mean /set, /show or /save? /help lists the commands."),
    ("/OPEN a.mp4", "There is no /OPEN. Did you mean /open? /help lists the commands."),
    ("/", "There is no /. /help lists the commands."),
    ("/" + "x" * 99, f"There is no /{'x' * 40}. /help lists the commands."),
    ("/no/such/file.mp4", "There is no /no/such/file.mp4. /help lists the commands."),
    ("/open", f"No file was named: {OPEN}"),
    ("/open 'a.mp4", f"The quote in 'a.mp4 isn't closed: {OPEN}"),
    ("/open --strat 5 a.mp4", f"There is no option --strat here: {OPEN}"),
    ("/open a.mp4 --start", f"--start needs a value: {OPEN}"),
    ("/open a.mp4\nWhy?", f"A command is one line of text: {OPEN}"),
    ("/open a\0.mp4", f"A command is one line of text: {OPEN}"),
    ("/open --at 1 --end 2 a.mp4", "--at can't be combined with --start and --end. Leave them out."),
    ("/frames a.png b.png", 'Name one file, in "quotes" if it has spaces, not 2: /frames [--show] [FILE].'),
    ("/retry 0.7", f"0.7 is one word too many: {RETRY}"),
    ("/retry --verbose on", f"There is no option --verbose here: {RETRY}"),
    ("/retry --temperature hot", "temperature can't be hot: give a number from 0 to 100."),
    ("/undo 2", "2 is one word too many: /undo."),
    ("/edit", "Give the number of a question: /edit N [QUESTION]."),
    ("/edit 0 a", "Questions are numbered from 1: /edit N [QUESTION]."),
    ("/edit 2", "/edit N QUESTION: the new question is missing."),
    ("/set temperature", "temperature needs a value: /set [NAME VALUE]."),
    ("/set temprature 1", "There is no setting temprature. Did you mean temperature? /set lists them."),
    ("/set temperature 1 2", "2 is one word too many: /set [NAME VALUE]."),
    ("/load --force a.json", "There is no option --force here: /load FILE."),
    ("/quit now", "now is one word too many: /bye."),
]


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_refusals_are_one_sentence(line: str, message: str) -> None:
    assert refused(UsageError, calls_of, line) == message


def test_a_question_without_words_is_put_up_for_editing_where_there_is_an_editor() -> None:
    chat = Listed()
    chat.has_editor = True
    perform(chat, "/edit 2")  # type: ignore[arg-type]
    assert (chat.calls, vars(chat)["edited"]) == ([("question_of", 2)], 2)
    words = "new  words 'as they are"
    assert calls_of(f"/edit 2 {words}") == [("question_of", 2), ("ask", words, {"number": 2})]


def test_a_file_with_spaces_needs_no_quotes(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(in_a_folder))
    for name in ("my clip.mp4", "it's.mp4", "a -- b.mp4"):
        (in_a_folder / name).touch()
        assert calls_of(f"/open {name}") == [opened(Path(name))]
        assert calls_of(f"/open ~/{name}") == [opened(in_a_folder / name)]
    assert calls_of("/open --start 5 my clip.mp4") == [opened(Path("my clip.mp4"), start_s=5.0)]
    (in_a_folder / "my").touch()
    (in_a_folder / "clip.mp4").touch()  # words that are files each stay apart
    assert calls_of("/open my clip.mp4") == [opened(Path("my"), Path("clip.mp4"))]


def test_stdin_is_no_clip_here(in_a_folder: Path) -> None:
    assert calls_of("/open -") == [opened(in_a_folder / "-")]


@pytest.mark.parametrize("name", ["clip", "my clip.mp4", "it's.mp4"])
def test_a_file_dropped_onto_the_prompt_is_told_from_a_question(name: str, in_a_folder: Path) -> None:
    path = in_a_folder / name
    path.touch()
    quoted = "'" + str(path).replace("'", r"'\''") + "'"
    escaped = str(path).replace(" ", r"\ ").replace("'", r"\'")
    for line in {str(path), quoted, escaped, f"{quoted} ", f"{quoted} {quoted}"}:
        with pytest.raises(UsageError) as caught:
            calls_of(line)
        text = line.strip()
        assert str(caught.value) == (
            f"A file isn't a question: /open {text} begins a chat with it, /add {text} adds it to the next question."
        )
        ((_, clips),) = calls_of(f"/open {text}")
        assert set(clips) == {(path, AS_STORED)}
        assert calls_of(f" {line}") == [asked(text)]


def test_only_media_are_told_from_questions_by_a_relative_name(in_a_folder: Path) -> None:
    for name in ("dog", "a.mp4"):
        (in_a_folder / name).touch()
    assert calls_of("dog") == [asked("dog")]
    with pytest.raises(UsageError, match=r"^A file isn't a question: /open a\.mp4 "):
        calls_of("a.mp4")


def test_every_command_is_explained() -> None:
    rows = help_rows()
    for name, command in COMMANDS.items():
        assert (command.listed, command.help) in rows
        assert help_rows(name)[0] == help_rows(f"/{name}")[0] == (command.usage, command.help)
    keys = ['"""', "Alt-Enter", "Tab", "Ctrl-C", "Ctrl-D", "a leading space"]
    assert [name for name, _ in rows[len(COMMANDS) :]] == keys
    assert help_rows("?") == help_rows("help")
    with pytest.raises(UsageError, match=r"^There is no /sav\. Did you mean /save\? /help lists the commands\.$"):
        help_rows("sav")
    assert help_rows("save") == [
        ("/save [--overwrite] FILE", "Save the conversation to a file that only you can read; /load opens it."),
        ("--overwrite", "Replace a file that is already there."),
    ]
    assert [name for name, _ in help_rows("set")] == ["/set [NAME VALUE]", *SETTINGS]


def mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


SHEET = "red-circle-moves-left-frames"
TIMES = "8 frames at 0:00.00 0:00.29 0:00.62 0:00.92 0:01.25 0:01.54 0:01.88 0:02.17"


def test_frames_names_the_moments_and_draws_what_the_model_saw(here: Stage) -> None:
    assert here.enter("/frames") == f"{CLIP}  {TIMES}\nsheet                      {SHEET}.png\n"
    with Image.open(f"{SHEET}.png") as sheet:
        assert sheet.width > sheet.height > 200
    assert f"{SHEET}-2.png" in here.enter("/frames")
    here.enter(f"/add {demo.CLIPS / CLIP}")  # a clip that came twice is drawn once
    assert here.enter("/frames sheet.jpg").endswith("sheet                      sheet.jpg\n")
    assert Path("sheet.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    with pytest.raises(OutputError, match=r"'sheet\.jpg' is already there"):
        here.enter("/frames sheet.jpg")
    with pytest.raises(UsageError, match=r"'one.gif' has neither the ending of a PNG nor that of a JPEG"):
        here.enter("/frames one.gif")
    here.enter("/frames 'my sheets/'")
    assert [path.name for path in Path("my sheets").iterdir()] == [f"{SHEET}.png"]
    here.enter(f"/add {demo.CLIPS / 'yellow-star.png'}")
    assert "yellow-star.png  one picture\nsheet            yellow-star-frames.png\n" in here.enter("/frames")
    for line, fault in (("/frames sheet.png", "There are 2 clips: name a folder"), ("/frames --show", "a terminal")):
        with pytest.raises(UsageError, match=fault):
            here.enter(line)


def test_frames_are_drawn_in_a_terminal_and_into_a_file_only_where_one_is_named(here: Stage) -> None:
    here.chat.screen._out = drawn = Terminal()
    assert here.enter("/frames --show") == f"{CLIP}  {TIMES}\n"
    assert CLIP in drawn.getvalue()
    assert here.enter("/frames sheet.png --show").endswith("sheet.png\n")
    assert [path.name for path in Path().glob("*.png")] == ["sheet.png"]


def test_a_saved_conversation_is_loaded_into_a_file_of_its_own(here: Stage) -> None:
    assert here.enter("And its colour?", "/undo", "/save 'my talk'") == "Saved in my talk.\n"
    with pytest.raises(OutputError, match="/save --overwrite FILE replaces it"):
        here.enter("/save 'my talk'")
    saved = Path("my talk").read_bytes()
    assert mode("my talk") == 0o600
    assert len(saved.splitlines()) == 2

    assert here.enter("/load my talk") == f"Going on after 1 turn. About {CLIP}. The last question: {HAPPENS}\n"
    assert here.enter("And the background?") == "White.\n"
    assert here.calls == 1, "the clip was still in use"
    assert Path("my talk").read_bytes() == saved
    assert [number for number, _ in here.saved()] == [1, 2, 2]
    (other,) = here.others()
    assert [row["question"] for row in here.rows(other)] == [HAPPENS, "And the background?"]
    here.enter("/save --force 'my talk'")
    assert len(Path("my talk").read_bytes().splitlines()) == 3


def test_the_session_that_goes_on_can_be_loaded_but_not_replaced(here: Stage) -> None:
    said = refused(LockedError, here.enter, f"/save --overwrite {here.path}")
    assert said == f"'{here.path}' is the file of a chat that is still open. Name another file."
    written = here.path.read_bytes()
    here.enter(f"/load {here.path}", "And its colour?")
    assert here.path.read_bytes() == written
    (other,) = here.others()
    assert [row["number"] for row in here.rows(other)] == [1, 2]
    assert here.rows(other)[0]["answer_ids"] == here.rows()[0]["answer_ids"]


def test_what_cannot_be_loaded_leaves_the_conversation_alone(here: Stage) -> None:
    here.enter("/save saved.jsonl")
    Path("gone.jsonl").write_text(Path("saved.jsonl").read_text().replace(CLIP, "gone.mp4"))
    Path("other.jsonl").write_text('{"job": 1}\n')
    with pytest.raises(MediaError, match="The session is about it: put it back, or begin a new session"):
        here.enter("/load gone.jsonl")
    with pytest.raises(SessionError):
        here.enter("/load other.jsonl")
    assert here.enter("And its colour?") == "Red.\n"


def test_another_model_and_a_changed_clip_are_reported_when_a_session_is_loaded(stage: Make, tmp_path: Path) -> None:
    clip, path = tmp_path / "clip.mp4", tmp_path / "saved.jsonl"
    shutil.copy(demo.CLIPS / CLIP, clip)
    here = stage()
    here.enter(f"/add {clip}", HAPPENS, "And its\x1b[2J colour?", f"/save {path}")
    shutil.copy(demo.CLIPS / "blue-star-grows.mp4", clip)
    path.write_text(path.read_text().replace('"model": "demo"', '"model": "another"'))
    size = (demo.CLIPS / "blue-star-grows.mp4").stat().st_size
    assert here.enter("/load saved.jsonl") == (
        f"vllava: warning: '{clip}' has changed since: 8,496 bytes then, {size:,} now. "
        "The answers so far are about the old clip.\n"
        "vllava: warning: tokenised again: 2 answers of another model, or edited since.\n"
        "Going on after 2 turns. About clip.mp4. The last question: And its[2J colour?\n"
    )
    here.enter("What does the star do?")
    assert (here.calls, here.chat.conversation.turns[2].stats.tower_calls) == (2, 1)
    (other,) = here.others()
    assert read(other).model == "demo"


def test_the_fit_of_a_session_goes_on(here: Stage, tmp_path: Path) -> None:
    path = tmp_path / "saved.jsonl"
    here.enter(f"/save {path}")
    path.write_text(path.read_text().replace('"fit": "crop"', '"fit": "pad"'))
    here.enter(f"/load {path}", "And its colour?")
    assert here.chat.conversation.fit == "pad"
    here.enter(f"/add {demo.CLIPS / CLIP}", "And here?")
    assert here.calls == 2, "once cropped, once padded"
    here.enter(f"/open {demo.CLIPS / 'yellow-star.png'}", "What shape is it?")
    record = read(here.others()[-1])
    assert (record.fit, record.media[0].framing.fit) == ("pad", "pad")


def test_the_background_of_a_session_goes_on(here: Stage, tmp_path: Path) -> None:
    path = tmp_path / "saved.jsonl"
    here.enter(f"/save {path}")
    assert "background" not in path.read_text()
    path.write_text(path.read_text().replace('"start_s": null', '"background": "#000080", "start_s": null'))
    here.enter(f"/load {path}", f"/add {demo.CLIPS / 'yellow-star.png'}", "And its colour?")
    here.enter(f"/open {demo.CLIPS / 'yellow-star.png'}", "What shape is it?")
    (last, *_, before) = (read(other) for other in reversed(here.others()[-2:]))
    assert [medium.framing.background for medium in (*before.media, *last.media)] == ["#000080"] * 3
    path.write_text(path.read_text().replace("#000080", "navy"))
    with pytest.raises(SessionError, match="background is 'navy', not a colour like #ffffff"):
        read(path)


def test_export_writes_markdown(here: Stage) -> None:
    here.enter("Is *this* a\n# heading?")
    assert here.enter("/export talk.md") == "Exported to talk.md.\n"
    assert Path("talk.md").read_text() == markdown(here.chat.conversation, model="demo")
    with pytest.raises(OutputError, match="/export --overwrite FILE replaces it"):
        here.enter("/export talk.md")
    assert mode("talk.md") == 0o600
    Path("talk.md").chmod(0o644)
    here.enter("/export talk.md --overwrite")
    assert mode("talk.md") == 0o600


def test_set_changes_the_settings_and_reads_them_back(here: Stage) -> None:
    before = here.chat.sampling
    for line in ("/set temperature -1", "/set colour red", "/retry --temperature hot"):
        with pytest.raises(UsageError):
            here.enter(line)
    assert here.chat.sampling == before
    assert here.enter("/set top_p 0.5") == "top-p  0.5\n"
    assert here.enter("/set Choices moves left, moves right") == "choices  moves left,moves right\n"
    assert here.enter("/set choices none", "/set verbose on") == "verbose  on\n"
    assert "turn 2: stopped: end" in here.enter(HAPPENS)
    assert here.chat.conversation.turns[1].sampling.top_p == 0.5
    assert here.enter("/set").splitlines()[:2] == ["temperature     0", "top-p           0.5"]
    assert "turn 3" not in here.enter("/set verbose off", HAPPENS)


def rewritten(path: Path, **changes: object) -> None:
    """Sets fields of the last row."""
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, json.dumps(json.loads(last) | changes)]) + "\n")


EDITED = "vllava: warning: tokenised again: 1 answer of another model, or edited since.\n"


@pytest.mark.parametrize("answer", ["A blue square.", "A red circle", "", "A red circle moves left. It is fast."])
def test_an_edited_answer_is_read_as_text(answer: str, here: Stage, tmp_path: Path) -> None:
    here.enter("/save saved.jsonl")
    rewritten(tmp_path / "saved.jsonl", answer=answer)
    assert here.enter("/load saved.jsonl").startswith(EDITED)
    (turn,) = here.chat.conversation.turns
    assert here.chat.engine.tokens.tokenizer.decode(turn.answer_ids).strip() == answer
    here.enter("And its colour?")


@pytest.mark.parametrize("name", ["others", "beyond", "none", "video", "image", "<pad>", "stop"])
def test_ids_that_are_not_the_answers_own_are_not_trusted(name: str, here: Stage, tmp_path: Path) -> None:
    here.enter("/save saved.jsonl")
    tokens, ids = here.chat.engine.tokens, here.chat.conversation.turns[0].answer_ids
    others: dict[str, list[list[int]]] = {"others": [[1, 2, 3]], "beyond": [[10**6]], "none": [[]]}
    if name not in others:
        known = {"<pad>": tokens.tokenizer.id_of("<pad>"), "stop": min(tokens.stop_ids), **tokens.placeholders}
        hostile = known[name]
        others[name] = [[*ids, hostile], [hostile, *ids], [hostile]]
    for forged in others[name]:
        rewritten(tmp_path / "saved.jsonl", answer_ids=forged)
        assert here.enter("/load saved.jsonl").startswith(EDITED)
        assert here.chat.conversation.turns[0].answer_ids == ids
    assert here.enter("And its colour?") == "Red.\n"


def test_ids_that_a_tokenizer_would_not_choose_stay(here: Stage, tmp_path: Path) -> None:
    """A model spells freely: its answer's ids stay as they came, and so does the cache behind them."""
    here.enter("/save saved.jsonl")
    tokens = here.chat.engine.tokens
    spelt = [token for letter in "Red" if (token := tokens.tokenizer.id_of(letter))]
    assert tuple(spelt) != tokens.answer_ids("Red")
    assert tokens.tokenizer.decode(spelt) == "Red"
    rewritten(tmp_path / "saved.jsonl", answer="Red", answer_ids=spelt)
    assert "edited" not in here.enter("/load saved.jsonl")
    here.enter("And the background?")
    assert here.chat.conversation.turns[0].answer_ids == tuple(spelt)
    assert here.chat.engine.prompt_cache
    assert ",".join(map(str, spelt)) in ",".join(map(str, here.chat.engine.prompt_cache.ids))

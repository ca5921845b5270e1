"""Answers of ask, chat and batch made again: the same, another from some token on, or not to be had and why."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.batch.fork_server import Zygote
from tests.batch.parts import Reading
from tests.commands.turns import Piped, turn
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.answers import Conversation
from vllava_cli.commands.replay import dropped, run
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.tokens import digest_of, read_tokens
from vllava_cli.errors import ReplayError, UsageError
from vllava_cli.nouns import DecodeLimits, Source

Row = dict[str, Any]
HAPPENS, COLOUR = "What happens in this video?", "What colour is it?"
RED, BLUE, STAR = "red-circle-moves-left.mp4", "blue-star-grows.mp4", "yellow-star.png"
CHAT = f"""{HAPPENS}
{COLOUR}
/undo
/add {BLUE}
/set temperature 1
{HAPPENS}
/retry
/edit 1 Is there a star?
{COLOUR}
"""
OURS = "vllava: replaying on cpu, as the rows say: demo, fp32, sdpa.\n"


@pytest.fixture(scope="module")
def made(vllava: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """Rows of each command, by its name, about clips in the folder that a test works in."""
    folder = tmp_path_factory.mktemp("made") / "clips"
    folder.mkdir()
    for clip in demo.clips():
        shutil.copy(clip, folder)
    (folder / "torn.mp4").write_bytes(b"no video")

    def rows(*words: str, stdin: str = "", code: int = 0) -> list[Row]:
        done = vllava.run(words[0], "--model", "demo", *words[1:], folder=folder, stdin=stdin.encode())
        assert done.code == code, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    warm = ("--temperature", "1.5", "--max-new-tokens", "9")
    found = {
        "ask": [
            *rows("ask", "--json", RED, HAPPENS),
            *rows("ask", "--json", "--fit", "pad", "--at", "0.5,1", "--no-guard", *warm, RED, STAR, HAPPENS),
            *rows("ask", "--json", "--choices", "Yes.,No.", "--calibrate", "--end", "1.5", RED, "Is there a star?"),
            *rows("ask", "--json", ".", COLOUR),
            *rows("ask", "--json", "--as-stored", RED, HAPPENS),
        ],
        "agree": rows("ask", "--json", "--agree", "3", RED, HAPPENS),
        "bf16": rows("ask", "--json", "--precision", "bf16", RED, HAPPENS),
        "chat": rows("chat", "--json", "--as-stored", "--session", "session.jsonl", RED, stdin=CHAT),
        "batch": rows(
            *("batch", "-Q", HAPPENS, "-Q", COLOUR, RED, BLUE, STAR, "torn.mp4", "--hash", "--as-stored"),
            *warm,
            code=1,
        ),
        "bare": rows("batch", HAPPENS, RED, "--choices", "Yes.,No."),
    }
    folder.rename(folder.parent / "moved")
    return found


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the same clips; computing takes one thread, as the model is tiny."""
    for clip in demo.clips():
        shutil.copy(clip, tmp_path)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def replayed(*rows: Row, ids: tuple[str, ...] = (), is_json: bool = False) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = Reading()
    code = run("rows.jsonl", reading.screen(), limits=DecodeLimits(), ids=ids, is_json=is_json)
    return code, *reading.said


def changed(row: Row, *places: tuple[str, Any]) -> Row:
    """A copy with other values: ("made_with.device", "cuda:7"), ("clips.0.path", "-"); ... takes the key out."""
    copy: Row = json.loads(json.dumps(row))
    for place, value in places:
        *outer, last = place.split(".")
        inner: Any = copy
        for part in outer:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    return copy


def test_the_answers_of_every_command_are_the_same_again(made: dict[str, list[Row]]) -> None:
    rows = [*made["ask"], *made["chat"], *made["batch"], *made["bare"]]
    good = [row for row in rows if not row.get("error")]
    kept = [row for row in good if any(clip.get("is_as_stored") for clip in row["made_with"]["clips"])]
    assert kept == [made["ask"][-1], *made["chat"], *(row for row in made["batch"] if not row["error"])]
    assert [row["turn"] for row in made["chat"]] == [1, 2, 2, 2, 1, 2]
    code, out, err = replayed(*good)
    assert out == "".join(f"{row.get('id') or f'row {number}'}: same\n" for number, row in enumerate(good, 1))
    assert (code, err) == (0, f"{OURS}vllava: of {len(good)} answers: {len(good)} same.\n")
    assert len({row["seed"] for row in made["batch"]}) > 2, "each question has a seed of its own"


def test_each_engine_is_loaded_once_whatever_the_order_of_its_rows(made: dict[str, list[Row]]) -> None:
    exact, half, later = made["ask"][0], made["bf16"][0], made["chat"][0]
    code, out, err = replayed(exact, half, later)
    assert (code, out) == (0, "row 1: same\nrow 3: same\nrow 2: same\n")
    assert err == (
        f"{OURS}vllava: replaying on cpu, as the rows say: demo, bf16, sdpa.\nvllava: of 3 answers: 3 same.\n"
    )


def test_another_token_is_told_by_its_place_with_both_texts(made: dict[str, list[Row]]) -> None:
    row = made["ask"][0]
    ids = row["made_with"]["answer_ids"]
    other = changed(row, ("made_with.answer_ids", [*ids[:3], ids[3] + 1, *ids[4:]]), ("answer", "A red\ncircle naps."))
    longer = changed(row, ("made_with.answer_ids", [*ids, 7]), ("answer", "A red circle moves left. Far."))
    cut = changed(row, ("made_with.sampling.max_new_tokens", len(ids)))
    edited = changed(row, ("answer", "A red circle moves right."))
    code, out, _ = replayed(other, longer, cut, edited, row)
    now = "now:  A red circle moves left."
    assert (code, out.splitlines()) == (
        1,
        [
            *("row 1: differs at token 4", "  then: A red circle naps. (end)", f"  {now} (end)"),
            *("row 2: differs at token 7", "  then: A red circle moves left. Far. (end)", f"  {now} (end)"),
            *("row 3: differs at token 7", "  then: A red circle moves left. (end)", f"  {now} (length)"),
            *("row 4: differs", "  then: A red circle moves right. (end)", f"  {now} (end)"),
            "row 5: same",
        ],
    )


def test_probabilities_may_differ_by_what_rounding_does(made: dict[str, list[Row]]) -> None:
    (row,) = made["bare"]
    yes, no = row["probabilities"]["Yes."], row["probabilities"]["No."]
    sign = 1 if yes < no else -1
    near, far = (
        changed(row, ("probabilities", {"Yes.": yes + sign * by, "No.": no - sign * by})) for by in (5e-5, 2e-4)
    )
    other = changed(row, ("answer", "Yes." if row["answer"] == "No." else "No."))
    code, out, _ = replayed(near, far, other)
    said = [line.partition(": ")[2].partition(" (")[0] for line in out.splitlines()]
    assert (code, said) == (
        1,
        ["same", "differs", row["answer"], f" {row['answer']}", "differs", other["answer"], f" {row['answer']}"],
    )


def test_an_answer_that_was_stopped_is_made_again_as_far_as_it_went(made: dict[str, list[Row]]) -> None:
    row = changed(made["ask"][0], ("stop_reason", "interrupted"), ("answer", "A red"))
    ids = row["made_with"]["answer_ids"]
    some, none = (
        changed(row, ("made_with.answer_ids", ids[:count]), ("answer", text)) for count, text in ((2, "A red"), (0, ""))
    )
    assert replayed(some, none)[:2] == (0, "row 1: same\nrow 2: same\n")


def test_what_is_another_is_told_for_each_row(made: dict[str, list[Row]]) -> None:
    ask, two, chosen, pictures, _ = made["ask"]
    bad = next(row for row in made["batch"] if row["error"])
    Path(BLUE).write_bytes(b"other")
    Path("longer.mp4").write_bytes(Path(RED).read_bytes() + b"!")
    Path("more").mkdir()
    shutil.copy(STAR, "more")
    Path("same-size.mp4").write_bytes(Path(RED).read_bytes()[:-1] + b"!")
    clip = ask["made_with"]["clips"][0]
    size = clip["bytes"]
    bare, agree = made["bare"][0], made["agree"][0]
    resized = f"'longer.mp4' has changed since: {size:,} bytes then, {size + 1:,} now"
    no_adapter = {"name": "", "revision": None, "sha256": "0" * 64}
    refused: list[tuple[Row, tuple[str, Any], str]] = [
        (bad, ("id", bad["id"]), "the row is an error (unreadable), which has no answer"),
        (ask, ("error", "boom"), "the row is an error (boom), which has no answer"),
        (ask, ("made_with", ...), "made_with is missing: the row is from an older vllava, or isn't an answer"),
        (ask, ("made_with.device", ...), "row 4, made_with: device is missing"),
        (ask, ("made_with.device", ""), "row 5, made_with: device is empty"),
        (ask, ("model", ""), "row 6: model is empty"),
        (ask, ("made_with.adapter", no_adapter), "row 7, made_with, adapter: name is empty"),
        (ask, ("made_with.answer_ids", [7, -9]), "row 8, made_with, answer_ids: entry 2 is not a whole number"),
        (ask, ("made_with.clips.0.at_s", [0.5] * 100_000), "row 9, made_with, clips, entry 1: at_s is a list of"),
        (ask, ("clips.0.path", "a\0.mp4"), "row 10, clips, entry 1: path is not the name of a file"),
        (bare, ("path", "\ud800"), "row 11: path is not the name of a file"),
        (ask, ("made_with.clips", [clip, clip]), "it names 1 clip, and made_with has 2"),
        (ask, ("clips.0.path", "gone.mp4"), "There is no file 'gone.mp4' any more"),
        (ask, ("clips.0.path", "longer.mp4"), resized),
        (bare, ("path", "longer.mp4"), resized),
        (ask, ("clips.0.path", "same-size.mp4"), "'same-size.mp4' has changed since: the size is the same, but"),
        (pictures, ("clips.0.path", "more"), "'more' has changed since: "),
        (ask, ("clips.0.path", "-"), "its clip came from stdin and wasn't saved"),
        (ask, ("clips.0.path", "https://u:p@h/a.mp4"), "its clip is the URL https://h/a.mp4: save it, and put that"),
        (ask, ("clips.0.frame_times_s", [0.5]), f"the frames of '{RED}' are at other times: 0.5 s then, 0, 0.2917"),
        (ask, ("made_with.prompt_sha256", "0" * 64), "the prompt's tokens differ here: the tokenizer's files"),
        (two, ("made_with.sampling.seed", None), "its tokens were sampled, and the row has no seed"),
        (chosen, ("stop_reason", "interrupted"), "Ctrl-C stopped it before the likeliest choice was found"),
        (ask, ("made_with.device", "cuda:7"), "--device cuda:7 is not available; this machine has only "),
        (ask, ("made_with.dtype", "bfloat16"), "the dtype was bfloat16, and is float32 here"),
        (ask, ("revision", "abc"), "the revision was abc, and is none here"),
        (ask, ("model", "./nowhere"), "There is no model folder ./nowhere"),
        (ask, ("revision", ""), "row 28: revision is empty"),
        (ask, ("made_with.clips", [7]), "row 29, made_with, clips: entry 1 is not an object"),
        (ask, ("made_with.clips.0.sha256", "x"), "row 30, made_with, clips, entry 1: sha256 is not a SHA-256"),
        (ask, ("made_with.versions", {"torch": 2}), "row 31, made_with, versions: torch is not a text"),
        (agree, ("made_with.agree.samples", 17), "row 32, made_with, agree: samples is 17, but a clip is sampled at"),
        (agree, ("agreement.answers", ["a", 7]), "row 33, agreement, answers: entry 2 is not a text"),
        (agree, ("agreement.frame_times_s", [[9]] * 3), f"the frames of '{RED}' are at other times: 9 s then, 0"),
        (agree, ("made_with.agree.samples", 4), f"3 samples of '{RED}' differed then, and 4 differ now"),
        (agree, ("agreement", None), f"1 sample of '{RED}' differed then, and 3 differ now"),
        (agree, ("made_with.prompt_sha256", "0" * 64), "the prompt's tokens differ here: the tokenizer's files"),
        (agree, ("turn", 1), "only an answer about one clip can be that of several samples"),
        (ask, ("of", "texts"), "it is a summary of texts that the row doesn't have"),
    ]
    code, out, _ = replayed(*(changed(row, change) for row, change, _ in refused), ask, is_json=True)
    verdicts = {row["row"]: row for row in map(json.loads, out.splitlines())}
    assert code == 2 and len(verdicts) == len(refused) + 1
    for number, (*_, reason) in enumerate(refused, 1):
        assert verdicts[number]["verdict"] == "cannot"
        assert verdicts[number]["reason"].startswith(reason), verdicts[number]["reason"]
    assert verdicts[len(refused) + 1]["verdict"] == "same"


def test_no_row_can_write_the_line_of_another(made: dict[str, list[Row]]) -> None:
    ask = made["ask"][0]
    rows = (
        changed(ask, ("id", "7\nrow 9: same"), ("answer", "A\u2028dog.")),
        changed(ask, ("id", "8\x85b"), ("model", "./a\nrow 9: same")),
    )
    code, out, _ = replayed(*rows)
    assert (code, out.splitlines()) == (
        2,
        [
            "7 row 9: same: differs",
            "  then: A dog. (end)",
            "  now:  A red circle moves left. (end)",
            "8 b: can't: There is no model folder ./a row 9: same: give the folder of a Video-LLaVA checkpoint, a hub "
            "id, or --model demo",
        ],
    )


def test_turns_of_a_chat_need_those_before_them(made: dict[str, list[Row]]) -> None:
    first, second, drawn, again, edited, last = made["chat"]
    broken = changed(first, ("made_with", ...))
    lone = changed(second, ("session", None))
    moved = changed(second, ("session", "other.jsonl"))
    for rows, reasons in (
        ([second, last], ["turn 1 of its conversation isn't among the rows before it"] * 2),
        ([broken, second], ["made_with is missing", "turn 1 of its conversation can't be used: made_with is missing"]),
        ([first, lone], [None, "turn 1 of its conversation isn't among the rows before it"]),
        ([first, moved], [None, "turn 1 of its conversation isn't among the rows before it"]),
        ([edited, again], [None, "the prompt's tokens differ here"]),
        (
            [changed(first, ("clips.0.path", BLUE)), drawn],
            [f"'{BLUE}' has changed since", "its clips don't begin with"],
        ),
        ([first, drawn, edited, last], [None] * 4),
    ):
        verdicts = [json.loads(line) for line in replayed(*rows, is_json=True)[1].splitlines()]
        for verdict, reason in zip(verdicts, reasons, strict=True):
            assert (verdict["reason"] or "").startswith(reason or ""), verdict
            assert verdict["verdict"] == ("cannot" if reason else "same")


def test_other_releases_are_told_once_and_are_no_reason_to_refuse(made: dict[str, list[Row]]) -> None:
    here = made["ask"][0]["made_with"]["versions"]["transformers"]
    row = changed(made["ask"][0], ("made_with.versions", {"transformers": "4.0", "no-such-library": "0.49"}))
    code, out, err = replayed(row, row)
    told = [f"transformers was 4.0, and is {here} here", "no-such-library was 0.49, and is missing here"]
    assert (code, out, [err.count(each) for each in told]) == (0, "row 1: same\nrow 2: same\n", [1, 1])
    (verdict,) = map(json.loads, replayed(row, is_json=True)[1].splitlines())
    answer = {"answer": "A red circle moves left.", "stop_reason": "end"}
    assert verdict == {
        "row": 1,
        "id": None,
        "verdict": "same",
        "token": None,
        "then": answer,
        "now": answer,
        "reason": None,
        "others": told,
    }


def test_rows_are_named_by_their_id(made: dict[str, list[Row]]) -> None:
    rows = [row for row in made["batch"] if row["answer"]][:2]
    wanted = rows[1]["id"]
    assert replayed(*rows, ids=(wanted,))[:2] == (0, f"{wanted}: same\n")
    with pytest.raises(UsageError, match=r"^No row of 'rows\.jsonl' has the id 7: jq -r \.id lists them\.$"):
        replayed(*rows, ids=(wanted, "7"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "'rows.jsonl' has no rows. Name what ask --json, chat --json or batch wrote."),
        ("path,answer\na,b\n", "'rows.jsonl' was not written by vllava. Name another file."),
        (None, "'rows.jsonl' can't be read: no such file or directory. Check the path, or name another file."),
    ],
)
def test_a_file_without_rows_is_a_usage_error(content: str | None, said: str) -> None:
    if content is not None:
        Path("rows.jsonl").write_text(content)
    assert refused(UsageError, run, "rows.jsonl", Reading().screen(), limits=DecodeLimits()) == said


def test_rows_come_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(b'{"id": "7", "error": {"kind": "bug"}}\n'))
    reading = Reading()
    assert run("-", reading.screen(), limits=DecodeLimits()) == 2
    assert reading.said == (
        "7: can't: the row is an error (bug), which has no answer\n",
        "vllava: of 1 answer: 1 that can't be made again.\n",
    )


def test_turns_that_no_longer_were_in_the_context_are_found_by_the_prompt() -> None:
    tokens = read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT)))
    turns = [turn(each, "Red.", answer_ids=(400,)) for each in (HAPPENS, COLOUR, "Why?")]
    for gone in range(4):
        prompt = tokens.unchecked_ids(Conversation(turns=turns, dropped=gone), "And then?")
        then = replace(turns[0], question="And then?", prompt_sha256=digest_of(prompt))
        assert dropped(Conversation(turns=turns), then, tokens) == gone
    with pytest.raises(ReplayError):
        dropped(Conversation(turns=turns[:2]), replace(turns[0], prompt_sha256="0" * 64), tokens)

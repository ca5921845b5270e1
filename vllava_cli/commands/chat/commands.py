"""Carries out a line of a chat: a question, or a slash command, which is a function in the table `COMMANDS`.

`perform`, /help, Tab and the man page read the table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vllava_cli.answers import Conversation
from vllava_cli.commands.chat.controller import ChatController, turns_are
from vllava_cli.commands.chat.display import clip_names, frame_times, markdown, state_rows
from vllava_cli.commands.chat.parser import Arguments, Option, Run, SlashCommand, arguments_of, nearest, split
from vllava_cli.commands.chat.recorder import FramedClip, clips_of
from vllava_cli.commands.chat.settings import SETTINGS, changed, setting_of, setting_rows
from vllava_cli.commands.sheets import free_sheet_path, make_folder, title_of, write, write_sheet
from vllava_cli.commands.start import warn_of_many
from vllava_cli.errors import LockedError, UsageError, quoted
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.nouns import FRAMES_PER_CLIP, counted
from vllava_cli.storage.files import is_locked
from vllava_cli.storage.jsonl import line_of
from vllava_cli.storage.session_file import read, rows_of
from vllava_cli.times import framing_of, time_of, times_of

_LINE = re.compile(r"/([a-z?]\S*|\Z)\s*(.*)", re.DOTALL | re.IGNORECASE)
_EDIT = re.compile(r"([0-9]{1,9})(?:\s+(.*))?", re.DOTALL)
_FRAMING = (
    Option(name="--start", value="TIME", help="Look from here on: seconds or h:m:s."),
    Option(name="--end", value="TIME", help="Look until here."),
    Option(name="--at", value="TIMES", help="Look at these moments, separated by commas."),
)
_SAMPLING = tuple(
    Option(name=f"--{name}", value="on|off" if setting.likely == ("on", "off") else "X", help=setting.help)
    for name, setting in SETTINGS.items()
    if name != "verbose"
)
_OVERWRITE = (Option(name="--overwrite", help="Replace a file that is already there."),)
KEYS = (
    ('"""', "Begins and ends a question of several lines."),
    ("Alt-Enter", "A new line."),
    ("Tab", "Completes commands, files and values."),
    ("Ctrl-C", "Stops an answer; at the prompt, clears the line."),
    ("Ctrl-D", "Leaves."),
    ("a leading space", "Makes a question of a line that begins with /."),
)
COMMANDS: dict[str, SlashCommand] = {}


def perform(chat: ChatController, line: str) -> None:
    """Carries out a line. Errors: UsageError with the usage of the command, any VllavaError.

    "Why?" is a question · "quit" and "/bye" leave · " /etc on the screen?" is a question, because of its leading space
    """
    text = line.strip()
    found = _LINE.fullmatch(line.rstrip())
    is_plain = not line[:1].isspace()
    if is_plain and text and not (found and found[1] in ("", *_BY_NAME)):
        _refuse_files(text)
    if found:
        command = _command_of(found[1])
        is_free_text = command.name == "edit"
        given = Arguments(command=command, rest=found[2]) if is_free_text else arguments_of(command, found[2])
        if not command.arguments:
            given.texts(most=0)
        command.run(chat, given)
    elif not text:
        raise UsageError("The question is empty: type one, or /help.")
    elif is_plain and text.lower() in COMMANDS["bye"].others:
        chat.is_over = True
    else:
        chat.ask(text)


def help_rows(topic: str | None = None) -> list[tuple[str, str]]:
    """Returns (what to type, what it does) rows for all commands and keys, or for one command. Errors: UsageError."""
    if topic is None:
        return [*((command.listed, command.help) for command in COMMANDS.values()), *KEYS]
    command = _command_of(topic.removeprefix("/").lower())
    rows = [(command.usage, command.help), *((option.typed, option.help) for option in command.options)]
    return rows + [(each.name, each.help) for each in SETTINGS.values() if command.name == "set"]


def _refuse_files(text: str) -> None:
    """Refuses a line of files that were dropped onto the terminal: it is neither a question nor a command."""

    def is_file(name: str) -> bool:
        is_plain = os.path.isabs(name) or name.lower().endswith(MEDIA_SUFFIXES)  # noqa: PTH117
        return is_plain and os.path.exists(name)

    if is_file(text) or all(is_file(word.text) for word in split(text)):
        raise UsageError(
            f"A file isn't a question: /open {text} begins a chat with it, /add {text} adds it to the next question."
        )


def _command_of(name: str) -> SlashCommand:
    if name in _BY_NAME:
        return _BY_NAME[name]
    suggestion = nearest(f"/{name}", [f"/{each}" for each in COMMANDS]) if name else ""
    raise UsageError(f"There is no /{name[:40]}.{suggestion} /help lists the commands.")


def _command(
    arguments: str = "", *, options: tuple[Option, ...] = (), others: tuple[str, ...] = ()
) -> Callable[[Run], Run]:
    """Enters a function into `COMMANDS`: the command gets the function's name, and its docstring as the help text."""

    def enter(run: Run) -> Run:
        name = run.__name__.removeprefix("_")
        COMMANDS[name] = SlashCommand(
            name=name, others=others, arguments=arguments, options=options, help=run.__doc__ or "", run=run
        )
        return run

    return enter


@_command("PATH...", options=_FRAMING)
def _open(chat: ChatController, given: Arguments) -> None:
    """Begin a new conversation about other videos or images."""
    fresh = replace(chat.conversation, attached=chat.read(_clips(chat, given)), turns=[], dropped=0)
    chat.engine.tokens.prompt_ids(fresh, "?")  # if the clips can't fit, the old conversation goes on
    warn_of_many(len(fresh.attached), chat.screen)
    chat.begin(fresh)
    chat.screen.notice(f"A new conversation. {chat.about}")


@_command("PATH...", options=_FRAMING)
def _add(chat: ChatController, given: Arguments) -> None:
    """Attach videos or images to the next question."""
    media, conversation = chat.read(_clips(chat, given)), chat.conversation
    chat.prefill.stop()
    chat.engine.tokens.prompt_ids(Conversation(attached=conversation.media + media), "?")
    conversation.attached += media
    warn_of_many(len(conversation.media), chat.screen)
    chat.screen.notice(f"Attached to the next question: {clip_names(conversation.attached)}.")


def _clips(chat: ChatController, given: Arguments) -> tuple[FramedClip, ...]:
    paths = given.paths(least=1)
    start, end, at = map(given.options.get, ("--start", "--end", "--at"))
    framing = framing_of(
        None if start is None else time_of(start),
        None if end is None else time_of(end),
        at_s=None if at is None else times_of(at),
        fit=chat.conversation.fit,
        background=chat.conversation.background,
        most=FRAMES_PER_CLIP,
    )
    return tuple((path, replace(framing, is_as_stored=chat.is_as_stored)) for path in paths)


@_command("[FILE]", options=(Option(name="--show", help="Draw the frames in the terminal."),))
def _frames(chat: ChatController, given: Arguments) -> None:
    """List the times of the frames that the model sees, and draw the frames into FILE, a PNG or JPEG."""
    from vllava_cli.media.contact_sheet import Sheet, tiled

    path = next(iter(given.paths(most=1)), None)
    is_drawn = "--show" in given.options
    media = tuple(dict.fromkeys(chat.conversation.media))
    if not media:
        raise UsageError(chat.about)
    if path and given.words[-1].text.endswith("/"):
        make_folder(path)
    is_folder = path is None or os.path.isdir(path)
    if len(media) > 1 and not is_folder:
        raise UsageError(f"There are {len(media)} clips: name a folder for their sheets, or no file at all.")
    if is_drawn and not chat.screen.is_terminal:
        raise UsageError("--show draws in a terminal, and stdout isn't one here. Name a file instead.")
    recipe, fit = chat.engine.tokens.checkpoint.video_recipe, chat.conversation.fit
    for frames in media:
        clip = frames.clip.path
        rows = [(title_of(clip), frame_times(frames))]
        sheet = Sheet.of(tiled(frames, recipe, fit=fit), title_of(clip), recipe, fit=fit)
        if is_drawn:
            chat.screen.picture(sheet)
        if path or not is_drawn:
            target = path if path and not is_folder else free_sheet_path(clip, path or Path())
            rows.append(("sheet", str(write_sheet(sheet, target))))
        chat.screen.facts(rows)


@_command(options=_SAMPLING)
def _retry(chat: ChatController, given: Arguments) -> None:
    """Ask the last question again, with other settings for this once."""
    sampling, count = chat.sampling, len(chat.conversation.turns)
    if not count:
        raise UsageError("There is no question to ask again yet.")
    for name, value in given.options.items():
        sampling = changed(sampling, name.removeprefix("--"), value)
    same = "so the answer will be the same"
    if not given.options and sampling.choices:
        chat.screen.notice(f"A choice doesn't vary, {same}: /set choices none removes the choices.")
    elif not given.options and sampling.temperature == 0:
        chat.screen.notice(f"The temperature is 0, {same}: /retry --temperature 0.8 varies it.")
    chat.ask(chat.questions[-1], sampling=sampling, number=count)


@_command()
def _undo(chat: ChatController, _: Arguments) -> None:
    """Take back the last question and its answer."""
    if not chat.conversation.turns:
        raise UsageError("There is nothing to undo.")
    question = " ".join(chat.questions[-1].split())
    with chat.changing():
        chat.conversation.cut(len(chat.conversation.turns) - 1)
    chat.screen.notice(f"Took back: {question if len(question) <= 60 else f'{question[:59]}…'}")


@_command("N [QUESTION]")
def _edit(chat: ChatController, given: Arguments) -> None:
    """Ask question N with other words, and drop what follows it."""
    found = _EDIT.fullmatch(given.rest)
    if not found or int(found[1]) == 0:
        raise given.command.refuse("Questions are numbered from 1" if given.rest else "Give the number of a question")
    number, count = int(found[1]), len(chat.conversation.turns)
    chat.question_of(number)
    if found[2]:
        if number < count:
            chat.screen.notice(f"{turns_are(number + 1, count)} dropped with the old question.")
        chat.ask(found[2], number=number)
    elif chat.has_editor:
        chat.edited = number
    else:
        raise UsageError("/edit N QUESTION: the new question is missing.")


@_command("[NAME VALUE]")
def _set(chat: ChatController, given: Arguments) -> None:
    """Change how answers are made; alone, list what can be changed."""
    is_list = bool(given.words) and given.words[0].text.lower() == "choices"
    words = given.texts(most=len(given.words) if is_list else 2)
    if not words:
        chat.screen.facts(setting_rows(chat.sampling, is_verbose=chat.screen.is_verbose))
        return
    name, value = setting_of(words[0]).name, " ".join(words[1:])
    if not value:
        raise given.command.refuse(f"{name} needs a value")
    if name == "verbose":
        chat.screen.is_verbose = SETTINGS[name].read(value)
    else:
        chat.sampling = changed(chat.sampling, name, value)
    rows = setting_rows(chat.sampling, is_verbose=chat.screen.is_verbose)
    chat.screen.facts([row for row in rows if row[0] == name])


@_command()
def _show(chat: ChatController, _: Arguments) -> None:
    """Show the settings, how the model is loaded, and how much context is used."""
    file = chat.recorder.file
    name = str(file.path) if file else "a file that begins with the first answer"
    settings = setting_rows(chat.sampling, is_verbose=chat.screen.is_verbose)
    chat.screen.facts(list(state_rows(chat.engine, chat.conversation, settings, file=name)))


@_command("FILE", options=_OVERWRITE)
def _save(chat: ChatController, given: Arguments) -> None:
    """Save the conversation to a file that only you can read; /load opens it."""
    path = given.target()
    if is_locked(path):
        raise LockedError(f"{quoted(path)} is the file of a chat that is still open. Name another file.")
    data = b"".join(map(line_of, rows_of(chat.recorder.record(chat.conversation))))
    write(path, data, is_overwriting="--overwrite" in given.options, mode=0o600)
    chat.screen.notice(f"Saved in {path}.")


@_command("FILE")
def _load(chat: ChatController, given: Arguments) -> None:
    """Continue a saved conversation."""
    record = read(given.path())
    clips = clips_of(record)
    chat.resume(record, dict(zip(clips, chat.read(clips), strict=True)))


@_command("FILE", options=_OVERWRITE)
def _export(chat: ChatController, given: Arguments) -> None:
    """Write the conversation to a Markdown file that only you can read."""
    path = given.target()
    data = markdown(chat.conversation, model=chat.recorder.header.model).encode()
    write(path, data, is_overwriting="--overwrite" in given.options, mode=0o600)
    chat.screen.notice(f"Exported to {path}.")


@_command()
def _clear(chat: ChatController, _: Arguments) -> None:
    """Begin again with the same videos and images."""
    conversation = chat.conversation
    count, media = len(conversation.turns), conversation.media
    with chat.changing():
        conversation.cut(0)
        conversation.attached = media
    chat.screen.notice(f"Forgot {counted(count, 'turn')}. {chat.about}")


@_command("[COMMAND]")
def _help(chat: ChatController, given: Arguments) -> None:
    """List the commands and keys, or explain one command with its options."""
    chat.screen.facts(help_rows(next(iter(given.texts(most=1)), None)))


@_command(others=("quit", "exit"))
def _bye(chat: ChatController, _: Arguments) -> None:
    """Leave the chat, like Ctrl-D, or quit or exit alone on a line."""
    chat.is_over = True


_BY_NAME = {name: command for command in COMMANDS.values() for name in (command.name, *command.others)}
_BY_NAME |= {"q": COMMANDS["bye"], "?": COMMANDS["help"]}

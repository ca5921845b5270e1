"""The slash commands: one table of names, helps, options and functions, and the meaning of a line.

The parser, /help, Tab and the man page read the same table.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vllava_cli.commands.chat.controller import ChatController
from vllava_cli.commands.chat.display import frame_times, markdown, state_rows
from vllava_cli.commands.chat.parser import Arguments, Option, SlashCommand, arguments_of, nearest, split
from vllava_cli.commands.chat.recorder import FramedClip, clips_of
from vllava_cli.commands.chat.settings import SETTINGS, setting_of
from vllava_cli.commands.sheets import check_free, make_folder, title_of, write, write_sheet
from vllava_cli.errors import LockedError, UsageError, quoted
from vllava_cli.media.file_check import MEDIA_SUFFIXES
from vllava_cli.nouns import FRAMES_PER_CLIP
from vllava_cli.storage.files import is_locked
from vllava_cli.storage.jsonl import line_of
from vllava_cli.storage.session_file import read, rows_of
from vllava_cli.times import framing_of, time_of, times_of

_COMMAND = re.compile(r"/([a-z?]\S*|\Z)\s*(.*)", re.DOTALL | re.IGNORECASE)
_EDIT = re.compile(r"([0-9]{1,9})(?:\s+(.*))?", re.DOTALL)


def perform(chat: ChatController, line: str) -> None:
    """Carries out a line. Errors: UsageError with the usage of the command, any VllavaError.

    "Why?" is a question · "quit" and "/bye" leave · " /etc on the screen?" is a question, for its leading space
    """
    found = _COMMAND.fullmatch(line.rstrip())
    if not found:
        _perform_question(chat, line)
        return
    if found[1] and found[1] not in _BY_NAME:
        _refuse_files(line.strip())
    command = _command_of(found[1])
    is_free_text = command.name == "edit"
    given = Arguments(command=command, rest=found[2]) if is_free_text else arguments_of(command, found[2])
    if not command.arguments:
        given.texts(most=0)
    command.run(chat, given)


def help_rows(topic: str | None = None) -> list[tuple[str, str]]:
    """(keys to type, effect) for everything, or for one command. Errors: UsageError."""
    if topic is None:
        return [*((command.listed, command.help) for command in COMMANDS.values()), *KEYS]
    command = _command_of(topic.removeprefix("/").lower())
    rows = [(command.usage, command.help), *((option.typed, option.help) for option in command.options)]
    return rows + [(each.name, each.help) for each in SETTINGS.values() if command.name == "set"]


def _perform_question(chat: ChatController, line: str) -> None:
    text = line.strip()
    is_plain = not line[:1].isspace()
    if not text:
        raise UsageError("The question is empty: type one, or /help.")
    if is_plain and text.lower() in COMMANDS["bye"].others:
        chat.is_over = True
        return
    if is_plain:
        _refuse_files(text)
    chat.ask(text)


def _refuse_files(text: str) -> None:
    """Refuses files that were dropped onto the terminal: they are neither a question nor a command."""
    if _is_file(text) or all(_is_file(word.text) for word in split(text)):
        raise UsageError(
            f"A file is no question: /open {text} begins anew with it, /add {text} goes with the next one."
        )


def _is_file(name: str) -> bool:
    is_plain = os.path.isabs(name) or name.lower().endswith(MEDIA_SUFFIXES)  # noqa: PTH117
    return is_plain and os.path.exists(name)


def _command_of(name: str) -> SlashCommand:
    if name in _BY_NAME:
        return _BY_NAME[name]
    suggestion = nearest(f"/{name}", [f"/{each}" for each in COMMANDS]) if name else ""
    raise UsageError(f"There is no /{name[:40]}.{suggestion} /help lists the commands.")


def _clips(chat: ChatController, given: Arguments) -> tuple[FramedClip, ...]:
    paths = given.paths(least=1)
    start, end, at = given.value("--start"), given.value("--end"), given.value("--at")
    framing = framing_of(
        None if start is None else time_of(start),
        None if end is None else time_of(end),
        at_s=None if at is None else times_of(at),
        fit=chat.conversation.fit,
        most=FRAMES_PER_CLIP,
    )
    return tuple((path, framing) for path in paths)


def _frames(chat: ChatController, given: Arguments) -> None:
    from vllava_cli.media.contact_sheet import Sheet, tiled

    path = next(iter(given.paths(most=1)), None)
    is_drawn = given.value("--show") is not None
    media = tuple(dict.fromkeys(chat.conversation.media))
    if not media:
        raise UsageError(chat.about)
    if path and given.words[-1].text.endswith("/"):
        make_folder(path)
    if path and len(media) > 1 and not os.path.isdir(path):
        raise UsageError(f"There are {len(media)} clips: name a folder for their sheets, or no file at all.")
    if is_drawn and not chat.screen.is_terminal:
        raise UsageError("--show draws in a terminal, and stdout is none here. Name a file instead.")
    recipe, fit = chat.engine.tokens.checkpoint.video_recipe, chat.conversation.fit
    for frames in media:
        title = title_of(frames.clip.path)
        if is_drawn:
            chat.screen.picture(Sheet.of(tiled(frames, recipe, fit=fit), title, recipe, fit=fit))
        rows = [(title, frame_times(frames))]
        if path or not is_drawn:
            rows.append(("sheet", str(write_sheet(frames, recipe, path, fit=fit))))
        chat.screen.facts(rows)


def _retry(chat: ChatController, given: Arguments) -> None:
    settings = chat.settings
    for name, value in given.options:
        settings = settings.changed(name.removeprefix("--"), value)
    chat.retry(settings if given.options else None)


def _edit(chat: ChatController, given: Arguments) -> None:
    found = _EDIT.fullmatch(given.rest)
    if not found or int(found[1]) == 0:
        raise given.command.refuse("A question has a number from 1" if given.rest else "No question was named")
    if found[2]:
        chat.edit(int(found[1]), found[2])
        return
    chat.question_of(int(found[1]))
    if not chat.has_editor:
        raise UsageError("/edit N QUESTION: the new words are missing.")
    chat.edited = int(found[1])


def _set(chat: ChatController, given: Arguments) -> None:
    is_list = bool(given.words) and given.words[0].text.lower() == "choices"
    words = given.texts(most=len(given.words) if is_list else 2)
    if not words:
        chat.screen.facts(chat.settings.rows())
        return
    name = setting_of(words[0]).name
    if len(words) == 1:
        raise given.command.refuse(f"{name} wants a value")
    chat.settings = chat.settings.changed(name, " ".join(words[1:]))
    chat.screen.is_verbose = chat.settings.is_verbose
    chat.screen.facts([row for row in chat.settings.rows() if row[0] == name])


def _show(chat: ChatController, _: Arguments) -> None:
    file = chat.recorder.file
    name = str(file.path) if file else "a file that begins with the first answer"
    chat.screen.facts(list(state_rows(chat.engine, chat.conversation, chat.settings, file=name)))


def _save(chat: ChatController, given: Arguments) -> None:
    path, is_overwriting = _target(given)
    if is_locked(path):
        raise LockedError(f"{quoted(path)} is the file of a chat that goes on. Name another file.")
    rows = rows_of(chat.recorder.record(chat.conversation))
    write(path, b"".join(map(line_of, rows)), is_overwriting=is_overwriting, mode=0o600)
    chat.screen.notice(f"Saved in {path}.")


def _export(chat: ChatController, given: Arguments) -> None:
    path, is_overwriting = _target(given)
    text = markdown(chat.conversation, model=chat.recorder.header.model)
    write(path, text.encode(), is_overwriting=is_overwriting, mode=0o600)
    chat.screen.notice(f"Exported to {path}.")


def _target(given: Arguments) -> tuple[Path, bool]:
    """The file to write, and whether it may replace one. Errors: UsageError, OutputError."""
    path, is_overwriting = given.path(), given.value("--overwrite") is not None
    if not is_overwriting:
        check_free(path, f"/{given.command.name} --overwrite FILE replaces it.")
    return path, is_overwriting


def _load(chat: ChatController, given: Arguments) -> None:
    record = read(given.path())
    clips = clips_of(record)
    chat.resume(record, dict(zip(clips, chat.read(clips), strict=True)))


def _help(chat: ChatController, given: Arguments) -> None:
    chat.screen.facts(help_rows(next(iter(given.texts(most=1)), None)))


def _bye(chat: ChatController, _: Arguments) -> None:
    chat.is_over = True


_FRAMING = (
    Option(name="--start", value="TIME", help="Look from here on: seconds or h:m:s."),
    Option(name="--end", value="TIME", help="Look up to here."),
    Option(name="--at", value="TIMES", help="Look at these moments, with commas between."),
)
_SAMPLING = tuple(
    Option(name=f"--{name}", value="on|off" if setting.likely == ("on", "off") else "X", help=setting.help)
    for name, setting in SETTINGS.items()
    if name != "verbose"
)
_OVERWRITE = (Option(name="--overwrite", help="Replace a file that is already there."),)
_ALL = (
    SlashCommand(
        name="open",
        arguments="PATH...",
        help="Begin a new conversation about other videos or images.",
        options=_FRAMING,
        run=lambda chat, given: chat.open(_clips(chat, given)),
    ),
    SlashCommand(
        name="add",
        arguments="PATH...",
        help="Attach videos or images to the next question.",
        options=_FRAMING,
        run=lambda chat, given: chat.add(_clips(chat, given)),
    ),
    SlashCommand(
        name="frames",
        arguments="[FILE]",
        help="Say which instants the model sees, and draw them into FILE, a PNG or JPEG.",
        options=(Option(name="--show", help="Draw them here, in the terminal."),),
        run=_frames,
    ),
    SlashCommand(
        name="retry",
        help="Ask the last question again, with other settings for this once.",
        options=_SAMPLING,
        run=_retry,
    ),
    SlashCommand(name="undo", help="Take back the last question and its answer.", run=lambda chat, _: chat.undo()),
    SlashCommand(
        name="edit",
        arguments="N [QUESTION]",
        help="Ask question N with other words, and drop what follows it.",
        run=_edit,
    ),
    SlashCommand(
        name="set",
        arguments="[NAME VALUE]",
        help="Change how answers are made; alone, list what can be changed.",
        run=_set,
    ),
    SlashCommand(
        name="show", help="Show the settings, how the model is loaded, and how much context is used.", run=_show
    ),
    SlashCommand(
        name="save",
        arguments="FILE",
        help="Keep the conversation in a file that /load reads, for you alone.",
        options=_OVERWRITE,
        run=_save,
    ),
    SlashCommand(name="load", arguments="FILE", help="Go on with a conversation that was saved.", run=_load),
    SlashCommand(
        name="export",
        arguments="FILE",
        help="Write the conversation as Markdown, for you alone.",
        options=_OVERWRITE,
        run=_export,
    ),
    SlashCommand(name="clear", help="Begin again with the same videos and images.", run=lambda chat, _: chat.clear()),
    SlashCommand(
        name="help",
        arguments="[COMMAND]",
        help="List the commands and keys, or explain one with its options.",
        run=_help,
    ),
    SlashCommand(name="bye", others=("quit", "exit"), help="Leave; so do Ctrl-D, and quit or exit alone.", run=_bye),
)
COMMANDS = {command.name: command for command in _ALL}
_BY_NAME = COMMANDS | {"q": COMMANDS["bye"], "?": COMMANDS["help"]}
_BY_NAME |= {other: command for command in _ALL for other in command.others}
KEYS = (
    ('"""', "Begins and ends a question of several lines."),
    ("Alt-Enter", "A new line."),
    ("Tab", "Completes commands, files and values."),
    ("Ctrl-C", "Stops an answer; at the prompt, clears the line."),
    ("Ctrl-D", "Leaves."),
    ("a leading space", "Makes a question of a line that begins with /."),
)

"""The slash commands as a table: what /help prints, Tab completes, the parser takes and the man page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllava_cli.commands.chat.nearest import nearest
from vllava_cli.commands.chat.settings import HELP, SAMPLING_HELP
from vllava_cli.errors import UsageError

MOST_SHOWN = 3
"""Options in a usage line."""
Subject = Literal["nothing", "media", "file", "turn", "setting", "topic"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """--NAME of a command, with the name of its value; "" where it takes none."""

    name: str
    value: str = ""
    help: str

    @property
    def typed(self) -> str:
        return f"{self.name} {self.value}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: `takes` says what its words are, `others` what it may be called as well."""

    name: str
    others: tuple[str, ...] = ()
    arguments: str = ""
    help: str
    takes: Subject = "nothing"
    options: tuple[Option, ...] = ()

    @property
    def usage(self) -> str:
        """With the options, of many only the first ones: "/save [--overwrite] FILE"."""
        shown = [f"[{option.typed}]" for option in self.options]
        if len(shown) > MOST_SHOWN:
            shown[MOST_SHOWN - 1 :] = ["..."]
        return " ".join(filter(None, [f"/{self.name}", *shown, self.arguments]))

    @property
    def listed(self) -> str:
        """Without the options, and with all names: "/save FILE", "/bye, /quit, /exit"."""
        names = ", ".join(f"/{name}" for name in (self.name, *self.others))
        return f"{names} {self.arguments}".rstrip()

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)


_FRAMING = (
    Option(name="--start", value="TIME", help="Look from here on: seconds or h:m:s."),
    Option(name="--end", value="TIME", help="Look up to here."),
    Option(name="--at", value="TIMES", help="Look at these moments, with commas between."),
)
_SAMPLING = tuple(
    Option(name=f"--{name}", value="on|off" if name in ("guard", "calibrate") else "X", help=help_)
    for name, help_ in SAMPLING_HELP.items()
)
_OVERWRITE = (Option(name="--overwrite", help="Replace a file that is already there."),)

COMMANDS: tuple[Command, ...] = (
    Command(
        name="open",
        arguments="PATH...",
        help="Begin a new conversation about other videos or images.",
        takes="media",
        options=_FRAMING,
    ),
    Command(
        name="add",
        arguments="PATH...",
        help="Attach videos or images to the next question.",
        takes="media",
        options=_FRAMING,
    ),
    Command(
        name="frames",
        arguments="[FILE]",
        help="Say which instants the model sees, and draw them into FILE, a PNG or JPEG.",
        takes="file",
        options=(Option(name="--show", help="Draw them here, in the terminal."),),
    ),
    Command(
        name="retry",
        help="Ask the last question again, with other settings for this once.",
        options=_SAMPLING,
    ),
    Command(name="undo", help="Take back the last question and its answer."),
    Command(
        name="edit",
        arguments="N [QUESTION]",
        help="Ask question N with other words, and drop what follows it.",
        takes="turn",
    ),
    Command(
        name="set",
        arguments="[NAME VALUE]",
        help="Change how answers are made; alone, list what can be changed.",
        takes="setting",
    ),
    Command(name="show", help="Show the settings, how the model is loaded, and how much context is used."),
    Command(
        name="save",
        arguments="FILE",
        help="Keep the conversation in a file that /load reads, for you alone.",
        takes="file",
        options=_OVERWRITE,
    ),
    Command(name="load", arguments="FILE", help="Go on with a conversation that was saved.", takes="file"),
    Command(
        name="export",
        arguments="FILE",
        help="Write the conversation as Markdown, for you alone.",
        takes="file",
        options=_OVERWRITE,
    ),
    Command(name="clear", help="Begin again with the same videos and images."),
    Command(
        name="help",
        arguments="[COMMAND]",
        help="List the commands and keys, or explain one with its options.",
        takes="topic",
    ),
    Command(name="bye", others=("quit", "exit"), help="Leave; so do Ctrl-D, and quit or exit alone."),
)
BY_NAME = {command.name: command for command in COMMANDS}
ALIASES = {"q": "bye", "?": "help"} | {other: command.name for command in COMMANDS for other in command.others}
KEYS = (
    ('"""', "Begins and ends a question of several lines."),
    ("Alt-Enter", "A new line."),
    ("Tab", "Completes commands, files and values."),
    ("Ctrl-C", "Stops an answer; at the prompt, clears the line."),
    ("Ctrl-D", "Leaves."),
    ("a leading space", "Makes a question of a line that begins with /."),
)


def help_rows(topic: str | None = None) -> list[tuple[str, str]]:
    """(what is typed, what it does) for everything, or for one command. Errors: UsageError."""
    if topic is None:
        return [*((command.listed, command.help) for command in COMMANDS), *KEYS]
    command = BY_NAME[topic_of(topic)]
    rows = [(command.usage, command.help)]
    rows += [(option.typed, option.help) for option in command.options]
    return rows + (list(HELP.items()) if command.takes == "setting" else [])


def topic_of(text: str) -> str:
    """ "/retry" → "retry", "?" → "help". Errors: UsageError for what isn't a command."""
    name = text.removeprefix("/").lower()
    name = ALIASES.get(name, name)
    if name not in BY_NAME:
        raise UsageError(unknown(name))
    return name


def unknown(name: str) -> str:
    """The sentence that a command without a meaning gets."""
    slashed = [f"/{each}" for each in BY_NAME]
    suggestion = nearest(f"/{name}", slashed) if name else ""
    return f"There is no /{name[:40]}.{suggestion} /help lists the commands."

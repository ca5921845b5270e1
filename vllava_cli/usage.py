"""Writes the texts of the command line: usage lines, help, and the sentence of a usage error.

typer's own texts differ from release to release, show Python's types, and cut summaries off.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from vllava_cli.nouns import LAST

UsageFault = cast(type[Exception], typer.BadParameter.__base__)
"""typer raises this for any command line that it can't read."""
OLD_NAMES = {"--force": "--overwrite", "--batch": "--batch-size"}
"""Options by the names that they had; those are taken, and no help shows them."""
_ADDRESS = re.compile(r"ray://\S+|auto|local|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}")
_SESSION = re.compile(r"[0-9]{4}-[0-9TZ_-]*")
OPEN_ENDED = {
    "--ray": ("--ray", _ADDRESS, "local"),
    "--continue": ("--continue", _SESSION, LAST),
    "-c": ("--continue", _SESSION, LAST),
}
"""Options whose value may be left out: the name, what may be its value, and which one is meant where none is there."""


class _Described:
    """Writes the usage and help of a command, or of the group of all commands, in place of typer."""

    params: list[Any]
    no_args_is_help: bool

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        known = {name for each in self.params for name in each.opts}
        try:
            return cast(list[str], cast(Any, super()).parse_args(ctx, completed(args, known)))
        except UsageFault as fault:
            cast(Any, fault).ctx = cast(Any, fault).ctx or ctx
            raise

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002
        """Returns the whole summary, whatever the limit: it is wrapped where it is shown."""
        return summary(self)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Replaces ASCII apostrophes by typographic ones: the ASCII ones end a quotation in typer's script for zsh."""
        found = cast(list[Any], cast(Any, super()).shell_complete(ctx, incomplete))
        for each in found:
            each.help = each.help and each.help.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
        return found

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return ["[OPTIONS]", *(named(each) for each in self.params if _is_argument(each))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        arguments = [described(each) for each in self.params if _is_argument(each)]
        options = [described(each) for each in cast(Any, self).get_params(ctx) if not _is_argument(each)]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=formatter.width // 3)


class CliCommand(_Described, TyperCommand):
    """A command with our help texts, which also takes options by their old names."""


class CliGroup(_Described, TyperGroup):
    """The group of all commands, with our help texts."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "COMMAND [ARGS]..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def summary(command: Any) -> str:
    """Returns the first line of a command's help, without its full stop."""
    return str(command.help or "").partition("\n")[0].strip().rstrip(".")


def described(parameter: Any) -> tuple[str, str]:
    """Returns the two columns of an option or an argument: ("-m, --model ID", "A hub id.  [default: demo]")."""
    facts = (("env var", parameter.envvar or ""), ("default", default_of(parameter)))
    notes = "; ".join(f"{what}: {fact}" for what, fact in facts if fact)
    return named(parameter), f"{parameter.help}  [{notes}]" if notes else parameter.help


def named(parameter: Any) -> str:
    """Writes the names and value of an option, "-m, --model ID", or of an argument, "CLIP..."."""
    value = str(parameter.metavar or parameter.name.upper())
    if _is_argument(parameter):
        return value
    names = ", ".join([*sorted(parameter.opts, key=len), *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {value}"


def default_of(parameter: Any) -> str:
    """Returns the text of an option's default; "" for arguments, flags, and options without a default."""
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    is_silent = _is_argument(parameter) or parameter.is_flag or parameter.default is None
    return "" if is_silent or not parameter.show_default else str(parameter.default)


def fault_sentence(fault: Any) -> str:
    """Writes the message of a UsageFault: what is wrong with the command line, and how to get help."""
    parameter = getattr(fault, "param", None)
    if parameter and not fault.message:
        return f"{named(parameter)} is missing. {' '.join(fault.ctx.get_usage().split())}"
    if parameter:
        return f"{max(parameter.opts, key=len)}: {fault.message.rstrip('.')}."
    nearest = sorted(getattr(fault, "possibilities", None) or ())
    text = f"{fault.message.removesuffix('.')}. Did you mean {', '.join(nearest)}?" if nearest else fault.message
    return f"{text if text[-1] in '.?' else f'{text}.'} {fault.ctx.command_path} -h shows the help."


def completed(words: Sequence[str], known: Container[str]) -> list[str]:
    """Fills in the values that words leave out, and replaces old names; words after -- stay as they are.

    ["--ray", "a.mp4", "--force"] → ["--ray=local", "a.mp4", "--overwrite"].
    """
    found = list(words)
    end = found.index("--") if "--" in found else len(found)
    for place, word in enumerate(words[:end]):
        option, equals, given = word.partition("=")
        if option not in known and OLD_NAMES.get(option, "") in known:
            found[place] = f"{OLD_NAMES[option]}{equals}{given}"
        elif word in known and word in OPEN_ENDED and OPEN_ENDED[word][0] in known:
            name, value, usual = OPEN_ENDED[word]
            is_bare = place + 1 == end or not value.fullmatch(words[place + 1])
            found[place] = f"{name}={usual}" if is_bare else name
    return found


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")

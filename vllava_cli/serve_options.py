"""Declares the options of `vllava serve`; `options` has those that it shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllava_cli.errors import UsageError, os_reason, quoted
from vllava_cli.options import number, partly_completed, positive_time, read_by
from vllava_cli.storage.files import size_bytes

if TYPE_CHECKING:
    from vllava_cli.media.remote.policy import Allowed

MOST_TOKEN_BYTES = 4096

Port = Annotated[
    int | None,
    typer.Option(
        **number(int, 0, 65535), help="Listen on this port, too; 0 takes a free one.", show_default="the socket alone"
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The address of the port; one that other machines can reach needs a token.",
        show_default="127.0.0.1",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="VLLAVA_TOKEN",
        help="Who asks at the port must know this. Other users see it in the list of processes: prefer the variable or "
        "--token-file.",
        show_default="none",
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Read the token from this file.", show_default="none")
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="A further name of this server in URLs, behind a proxy; may be given several times.",
        show_default="none",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Clips below this folder may be named by file: URLs.", show_default="none"),
]
Fetched = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="LIST",
        autocompletion=partly_completed(lambda: ("https", "http", "loopback", "link-local")),
        help="Media may be fetched from URLs of these schemes, https,http; from loopback and link-local addresses only "
        "if these are named, too.",
        show_default="none",
    ),
]
Idle = Annotated[
    float | None,
    typer.Option(
        **read_by(positive_time),
        metavar="TIME",
        help="End once nobody has asked for so long: seconds or h:m:s, 90, 10m.",
        show_default="never",
    ),
]
Queue = Annotated[
    int, typer.Option(**number(int, 1), help="How many questions may wait; further ones are told to try again.")
]
MostUpload = Annotated[
    int | None,
    typer.Option(**read_by(size_bytes), metavar="SIZE", help="The largest file that may be sent.", show_default="1G"),
]
Logged = Annotated[bool, typer.Option("--log", help="Write a line for each request on stderr, with its question.")]
Status = Annotated[bool, typer.Option("--status", help="Show the servers that you run; start none.")]
Stop = Annotated[bool, typer.Option("--stop", help="End the server that has this model, or the only one; start none.")]
StatusJson = Annotated[bool, typer.Option("--json", help="With --status: print one JSON object for each, a line each.")]


def token_of(token: str | None, file: Path | None) -> str:
    """Returns the token, or the one in the file; "" if there is none. Errors: UsageError."""
    if file is None:
        if token == "":
            raise UsageError("The token is empty: give one, or leave --token and VLLAVA_TOKEN out.")
        return token or ""
    if token:
        raise UsageError("--token-file can't be combined with --token or VLLAVA_TOKEN. Give one of them.")
    try:
        with file.open("rb") as stream:
            found = stream.read(MOST_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as exc:
        raise UsageError(f"--token-file {quoted(file)} can't be read: {os_reason(exc)}. Check the path.") from exc
    if not found:
        raise UsageError(f"--token-file {quoted(file)} is empty: write a token into it.")
    return found


def root_of(folder: Path | None) -> Path | None:
    """Returns the folder of --root with its links resolved. Errors: UsageError if there is no such folder."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise UsageError(f"--root {quoted(folder)} is not a folder: name one, or leave it out.")
    return folder.resolve()


def fetched_of(words: list[str] | None) -> Allowed:
    """Reads the words of --allow. Errors: UsageError for a scheme that no server fetches."""
    from vllava_cli.media.remote.policy import allowed

    found = allowed(words or ())
    if others := sorted(found.schemes - {"https", "http"}):
        raise UsageError(f"--allow {others[0]}: a server fetches from https and http alone. Name these.")
    return found

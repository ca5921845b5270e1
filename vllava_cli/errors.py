"""Every failure that a user can cause or meet, as one tree; a message is a sentence: the fault, the value, the remedy.

VllavaError                  exit code 1 unless the class has another
├── UsageError               the command line itself is wrong                    exit 2
│   └── WishError            an impossible --device, --precision or --attention  exit 2
├── MediaError               a clip or an image that can't be used
│   ├── DamagedError         a clip of which nothing is left to see
│   ├── TrimError            no frame of a clip lies where it is asked for
│   ├── ForbiddenError       a clip that a server doesn't open for a request
│   ├── TooLargeError        a clip with more bytes than a server takes
│   └── FetchError           a clip at a URL that can't be fetched
│       ├── MissingError     there is nothing under that URL
│       └── DownloadSizeError  it has more bytes than a clip may have
├── CheckpointError          a model folder that can't be used
│   └── HubError             the model isn't here and can't be fetched from the hub
├── MemoryShortError         this machine has too little memory for the model
├── OverflowedError          the model's numbers are infinite or not numbers
├── ContextError             the prompt doesn't fit into the model's context
├── ReplayError              an answer that can't be made again
├── SessionError             a session file that can't be used
├── ShardError               shards that don't have each job exactly once
├── ClusterError             Ray can't be reached, or ended too early
├── ServerError              a server can't be used, or can't be started
│   └── ServerGoneError      a server can't be reached, or has ended
├── BusyError                too many questions wait for the model
└── OutputError              a file can't be written (a full disk), or isn't one of ours
    ├── StdoutError          stdout can't be written
    │   └── ClosedPipeError  the reader closed the pipe; no message is printed   exit 141
    └── LockedError          another vllava is writing to this file              exit 75
"""

import os
from pathlib import Path

INTERRUPTED = 130
"""The exit code after Ctrl-C; the tree above names the others."""


class VllavaError(Exception):
    """A fault that is reported in one sentence; the process ends with its `exit_code`."""

    exit_code = 1


class UsageError(VllavaError):
    exit_code = 2


class WishError(UsageError):
    pass


class MediaError(VllavaError):
    pass


class DamagedError(MediaError):
    pass


class TrimError(MediaError):
    pass


class ForbiddenError(MediaError):
    pass


class TooLargeError(MediaError):
    pass


class FetchError(MediaError):
    is_missing = False
    """True if there is nothing at the URL; else another attempt may succeed."""


class MissingError(FetchError):
    is_missing = True


class DownloadSizeError(FetchError):
    pass


class CheckpointError(VllavaError):
    pass


class HubError(CheckpointError):
    pass


class MemoryShortError(VllavaError):
    pass


class OverflowedError(VllavaError):
    pass


class ContextError(VllavaError):
    pass


class ReplayError(VllavaError):
    pass


class SessionError(VllavaError):
    pass


class ShardError(VllavaError):
    pass


class ClusterError(VllavaError):
    pass


class ServerError(VllavaError):
    pass


class ServerGoneError(ServerError):
    pass


class BusyError(VllavaError):
    pass


class OutputError(VllavaError):
    pass


class StdoutError(OutputError):
    pass


class ClosedPipeError(StdoutError):
    exit_code = 141


class LockedError(OutputError):
    exit_code = 75


MOST_TOLD = 200
"""The most characters of a library's error that a message repeats."""


def reason_of(error: BaseException) -> str:
    """Shortens a library's error to one line without a full stop, to be quoted in our own message."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"


def os_reason(error: OSError | ValueError) -> str:
    """Returns the system's reason in lower case, for the middle of a sentence: "file too large"."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def quoted(path: Path) -> str:
    """Writes a path in quotes for a message: b"caf\\xe9.mp4" → 'caf\N{REPLACEMENT CHARACTER}.mp4'."""
    return f"'{os.fsencode(path).decode(errors='replace')}'"

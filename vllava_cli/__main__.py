"""`python -m vllava_cli` and `vllava` are the same."""

from __future__ import annotations

import os
from typing import NoReturn

from vllava_cli import times  # noqa: F401  (first: it notes when the process began)
from vllava_cli.cli import main


def run() -> NoReturn:
    """Ends the process with the command's exit code, without what Python does last: to take torch apart takes a second.

    By then every command has closed what it opened, and `main` has flushed what it printed.
    """
    os._exit(main())


if __name__ == "__main__":
    run()

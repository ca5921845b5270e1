"""The entry point of `python -m vllava_cli` and of `vllava`, which are the same."""

from __future__ import annotations

import os
from typing import NoReturn

try:
    from vllava_cli import times  # noqa: F401  (first: it notes when the process began)
    from vllava_cli.cli import main
except KeyboardInterrupt:  # Python would print a traceback
    os._exit(130)


def run() -> NoReturn:
    """Runs the command line and ends the process without Python's shutdown, which takes a second to unload torch.

    By then every command has closed its files, and `main` has flushed stdout.
    """
    # Tells torch to ask Linux for huge pages for large tensors; faults of small ones take a third of a load's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os._exit(main())


if __name__ == "__main__":
    run()

"""vllava as a process of its own, without the seconds that torch takes to import: forked off one that has done so.

`python -m tests.batch.fork_server` imports the engine, computes nothing, and for each line of JSON on stdin forks a
child that does what the console script does. The child leads a process group, as a shell's jobs do.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.commands.shell import Shell, environment_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100
"""After so long a command that hangs is ended by SIGALRM."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A command that was started; it leads a process group of its own."""

    pid: int
    folder: Path
    zygote: Zygote

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def interrupt(self) -> None:
        """As Ctrl-C at a terminal: for the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self) -> Shell:
        """A negative code is the number of the signal that ended it."""
        code = os.waitstatus_to_exitcode(self.zygote.wait(self.pid))
        out, err = (_beside(self.folder, name) for name in ("out", "err"))
        return Shell(code=code, out=out.read_text() if out.exists() else "", err=err.read_text())

    @property
    def told(self) -> str:
        """What is on stderr so far."""
        return _beside(self.folder, "err").read_text()

    def left_behind(self) -> list[str]:
        """The command lines of the group's processes that still run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found


@dataclass(frozen=True, kw_only=True)
class Zygote:
    process: subprocess.Popen[str]

    def start(self, *words: str | Path, folder: Path, stdin: bytes = b"", **options: Any) -> Running:
        """Starts `vllava WORDS` in `folder`; what it reads and prints are files beside that.

        Options: `max_bytes` of any file that it writes; `stdout`, `stderr`: paths to write to instead; `environment`.
        """
        for name, content in (("in", stdin), ("out", b""), ("err", b"")):
            _beside(folder, name).write_bytes(content)
        request = {"words": [str(word) for word in words], "folder": str(folder), **options}
        return Running(pid=self._ask(request), folder=folder, zygote=self)

    def run(self, *words: str | Path, folder: Path, stdin: bytes = b"", **options: Any) -> Shell:
        return self.start(*words, folder=folder, stdin=stdin, **options).wait()

    def wait(self, pid: int) -> int:
        """The status as the system tells it, once the command has ended."""
        return self._ask({"wait": pid})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def started() -> Iterator[Zygote]:
    settings = environment_of(Path("/nonexistent"))
    command = [sys.executable, "-m", "tests.batch.fork_server"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=settings, cwd=ROOT)
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield Zygote(process=process)
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def main() -> None:
    _prepare()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if not answer:
                _become(request)
                from vllava_cli.cli import main as vllava

                sys.exit(vllava())
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _prepare() -> None:
    """Imports all that a batch of the demo model needs: what transformers puts off until it is used takes 4 of 5 s."""
    import transformers.models.clip.modeling_clip
    import transformers.models.llama.modeling_llama
    import transformers.models.video_llava.modeling_video_llava  # noqa: F401

    import vllava_cli.batch.run
    import vllava_cli.cli
    import vllava_cli.media.decoder.pool  # noqa: F401
    from vllava_cli.batch.executors import local
    from vllava_cli.engine import hub

    local.import_engine()
    local.read_tokens(hub.locate("demo", None))


def _become(request: dict[str, Any]) -> None:
    """In the child: the process that a shell would have started."""
    os.setpgid(0, 0)
    signal.alarm(PATIENCE_S)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(request["folder"])
    new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, name, flags in ((0, "in", os.O_RDONLY), (1, "out", new), (2, "err", new)):
        path = request.get({1: "stdout", 2: "stderr"}.get(number, "")) or _beside(folder, name)
        descriptor = os.open(path, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # where no developer's own servers are
    os.environ.update(request.get("environment", {}))
    if "max_bytes" in request:
        sys.dont_write_bytecode = True  # compiled modules would be cut off as well, and later starts would read them
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_bytes"], request["max_bytes"]))
    sys.argv = ["vllava", *request["words"]]
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))


def _beside(folder: Path, name: str) -> Path:
    return folder.parent / f"{folder.name}.{name}"


if __name__ == "__main__":
    main()

"""A Unix socket in front of a server's that ends after some bytes of replies, as if the server had been killed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Cut:
    """Passes bytes on until `left_bytes` of replies have come; then every connection is reset, and none is taken."""

    target: str
    path: Path | None
    """None listens on a port of loopback."""
    left_bytes: int
    has_ended: bool = False
    _open: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self) -> None:
        self._own = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        self._own.bind(str(self.path) if self.path else ("127.0.0.1", 0))
        self._own.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._own.getsockname()[1]}"

    def end(self) -> None:
        with self._lock:
            self.has_ended = True
            for each in (self._own, *self._open):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._own.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.target)
                with self._lock:
                    if self.has_ended:
                        near.close(), far.close()
                        return
                    self._open += [near, far]
                for one, other, counts in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=(one, other, counts), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if counts:
                    part = data[: max(0, self.left_bytes)]
                    self.left_bytes -= len(data)
                    other.sendall(part)
                    if self.left_bytes <= 0:
                        self.end()
                        return
                else:
                    other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@contextmanager
def cut(target: str, path: Path | None, left_bytes: int) -> Iterator[Cut]:
    """Serves at a path, or on a port, what the server at `target` answers, until so many bytes have come."""
    own = Cut(target=target, path=path, left_bytes=left_bytes)
    own.serve()
    try:
        yield own
    finally:
        own.end()

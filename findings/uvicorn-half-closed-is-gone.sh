#!/usr/bin/env bash
# uvicorn takes a client that has sent its request and closes its sending side (shutdown(SHUT_WR), as `nc -N` and some
# scripts do) for one that has gone: asyncio is told at once to close the connection, receive() gives http.disconnect,
# and nothing of the reply arrives, though the client still reads. An application that stops work when its client
# goes can't tell the two apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import asyncio
import platform
import socket

import uvicorn

told = []


async def app(scope, receive, send):
    await receive()  # the request, whose body is empty
    try:
        told.append((await asyncio.wait_for(receive(), 5))["type"])
    except TimeoutError:
        told.append("nothing")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"reply"})


def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


async def reply():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    got = await asyncio.to_thread(ask, listener.getsockname()[1])
    server.should_exit = True
    await serving
    return got


got = asyncio.run(reply())
print(f"Python {platform.python_version()}, uvicorn {uvicorn.__version__} with h11: a client closed its sending side alone")
print(f"  receive() gave {told[0]}; the client got {len(got)} bytes")
assert (told, got) == (["http.disconnect"], b"")
PYTHON

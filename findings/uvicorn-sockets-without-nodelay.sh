#!/usr/bin/env bash
# asyncio sets TCP_NODELAY on the connections of a listening socket only if that socket was made with
# proto=socket.IPPROTO_TCP. A plain socket.socket() has proto 0, so a server that hands one to
# uvicorn.Server.serve(sockets=[…]) sends the later parts of a reply only once the client has acknowledged the earlier
# ones, which can take 40 ms on a connection that is kept open. uvicorn's own bind_socket, for workers and reloading, makes
# such a socket, too. The connections of one that is made with proto=socket.IPPROTO_TCP have TCP_NODELAY.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import asyncio
import http.client
import platform
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

seen: list[int] = []


class Protocol(H11Protocol):
    def connection_made(self, transport):
        connection = transport.get_extra_info("socket")
        seen.append(int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0))
        super().connection_made(transport)


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()


async def has_nodelay(listener):
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, lifespan="off", log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(ask, listener.getsockname()[1])
    server.should_exit = True
    await serving
    return seen.pop()


plain = asyncio.run(has_nodelay(socket.socket()))
named = asyncio.run(has_nodelay(socket.socket(proto=socket.IPPROTO_TCP)))
bound = uvicorn.Config(app, port=0, log_level="error").bind_socket()
print(f"Python {platform.python_version()}, uvicorn {uvicorn.__version__}: TCP_NODELAY of an accepted connection")
print(f"  listening socket with proto 0: {plain}; with IPPROTO_TCP: {named}; uvicorn's bind_socket has proto {bound.proto}")
bound.close()
assert (plain, named) == (0, 1)
PYTHON

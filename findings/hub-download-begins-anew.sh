#!/usr/bin/env bash
# huggingface_hub, from 1.18 on, keeps nothing of a file whose download is stopped: the next `hf download` asks for its
# first byte again, so Ctrl-C late in shards of 5 GB costs all of them. Up to 1.17 it went on where it had stopped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import os
import signal
import subprocess
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

BODY, COMMIT = os.urandom(30 << 20), "0" * 40
asked, is_over = [], threading.Event()


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(BODY).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()

    def do_GET(self):
        asked.append(self.headers.get("Range", "all"))
        start = int(asked[-1][6:-1]) if asked[-1] != "all" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        is_first = len(asked) == 1
        try:
            self.wfile.write(BODY[start : 25 << 20] if is_first else BODY[start:])
        except ConnectionError:
            return
        if is_first:
            is_over.wait()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(Path("home").resolve())}
words = ["venv/bin/hf", "download", "owner/model", "model.safetensors"]
first = subprocess.Popen(words, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
arrived = 0
while arrived < 20 << 20 and first.poll() is None:
    time.sleep(0.1)
    arrived = max((path.stat().st_size for path in Path("home").rglob("*.incomplete")), default=0)
first.send_signal(signal.SIGINT)
first.wait()
is_over.set()
left = sum(path.stat().st_size for path in Path("home").rglob("*.incomplete"))
subprocess.run(words, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(f"huggingface_hub {version('huggingface_hub')}: stopped with {arrived >> 20} of {len(BODY) >> 20} MiB on the disk,")
print(f"  {left >> 20} MiB of them left; the next download asked for {asked[-1]}")
assert arrived >= 20 << 20
assert (left, set(asked[1:])) == (0, {"all"})
PYTHON

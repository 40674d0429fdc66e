"""A hub on this machine: what `huggingface_hub` asks of the real one, with faults on request.

Large files (`*.tar`, `*.zip`, `*.parquet`) are kept as the real hub keeps them: the resolve address
answers with their hash and sends the client on to another host, which must not see the token.
"""

import hashlib
import json
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from smolvlm2.data.download.plan import make_plan
from smolvlm2.data.download.retries import RetrySettings
from smolvlm2.data.download.run import run_plan
from smolvlm2.data.download.selection import select
from smolvlm2.data.download.transfer import TransferSettings

PAGE = 4
"""Entries of a listing on one page."""
GOOD_TOKEN = "hf_good"
QUICK = RetrySettings(attempts=4, first_wait=0.0, longest_asked=0.01)


def is_large(path: str) -> bool:
    return path.endswith((".tar", ".zip", ".parquet", ".gz", ".z01", ".mp4"))


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """Something that goes wrong `times` times for one file or address."""

    ends_with: str
    kind: str
    method: str = "GET"
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    action: Callable[[], None] = lambda: None
    """Called in the middle of a file."""


@dataclass
class Repository:
    """Files by path at every commit; the last commit is main."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False

    def resolve(self, revision: str) -> str | None:
        commit = list(self.commits)[-1] if revision == "main" else revision
        return commit if commit in self.commits else None


class Hub:
    """Repositories, planned faults, and what was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        handler = type("Bound", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, hub_id: str, files: dict[str, bytes], *, gated: bool = False) -> str:
        """Publish a commit and return its name."""
        repo = self.repos.setdefault(hub_id, Repository({}, gated))
        names = sorted(files.items())
        commit = hashlib.sha1(repr((hub_id, len(repo.commits), names)).encode()).hexdigest()
        repo.commits[commit] = files
        return commit

    def fault(self, ends_with: str, kind: str, **more) -> None:
        self.faults.append(Fault(ends_with, kind, **more))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and path.endswith(fault.ends_with) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, ends_with: str) -> int:
        return sum(m == method and path.endswith(ends_with) for m, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        with self.hub.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.hub.requests.append((method, path, headers))
        try:
            if path.startswith("/api/datasets/"):
                self._api(path.removeprefix("/api/datasets/"), urllib.parse.parse_qs(url.query))
            else:
                self._file(method, path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        match = re.fullmatch(r"([^/]+/[^/]+)/(revision|tree|commits)/([^/]+)", path)
        fault = self.hub.take_fault("GET", path)
        if fault is not None:
            return self._error(int(fault.kind), headers=fault.headers)
        repo = self.hub.repos.get(match[1]) if match else None
        if match is None or repo is None:
            return self._error(404, "RepoNotFound")
        commit = repo.resolve(match[3])
        if commit is None:
            return self._error(404, "RevisionNotFound")
        if match[2] == "revision":
            return self._json({"id": match[1], "sha": commit})
        if match[2] == "commits":
            day = "2025-01-01T00:00:00.000Z"
            rest = {"title": "t", "message": "", "date": day, "authors": []}
            return self._json([{"id": name, **rest} for name in repo.commits])
        entries = [_entry(name, content) for name, content in repo.commits[commit].items()]
        entries.append({"type": "directory", "path": "folder", "oid": "0" * 40})
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            headers["Link"] = f"<{self.hub.endpoint}{self.path.partition('?')[0]}" + (
                f'?recursive=True&cursor={start + PAGE}>; rel="next"'
            )
        return self._json(entries[start : start + PAGE], headers)

    def _file(self, method: str, path: str) -> None:
        match = re.fullmatch(r"/(datasets|cdn)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = self.hub.repos.get(match[2]) if match else None
        if match is None or repo is None:
            return self._error(404, "RepoNotFound")
        locked = repo.gated and match[1] == "datasets"
        if locked and self.headers.get("Authorization") != f"Bearer {GOOD_TOKEN}":
            return self._error(403, "GatedRepo")
        content = repo.commits.get(match[3], {}).get(match[4])
        fault = self.hub.take_fault(method, match[4])
        if content is None or (fault is not None and fault.kind == "gone"):
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": match[3]})
        if fault is not None and fault.kind.isdigit():
            return self._error(int(fault.kind), headers=fault.headers)
        headers = {"X-Repo-Commit": match[3], "ETag": f'"{git_oid(content)}"'}
        if is_large(match[4]) and match[1] == "datasets":
            sha = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(len(content))}
            headers["Location"] = f"http://localhost:{self.hub.port}" + urllib.parse.quote(
                path.replace("/datasets/", "/cdn/", 1)
            )
            return self._send(302, b"", headers)
        return self._content(method, content, headers, fault)

    def _content(
        self, method: str, content: bytes, headers: dict[str, str], fault: Fault | None
    ) -> None:
        kind = fault.kind if fault is not None else ""
        if kind == "corrupt":
            content = bytes(len(content))
        elif kind == "short":
            content = content[:-1]
        elif kind == "long":
            content += b"!"
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self._head(status, len(body), headers)
        if method == "HEAD":
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if fault is not None:
            fault.action()
        if kind in ("reset", "close"):
            if kind == "reset":  # a closed socket that lingers for no time sends RST
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR) if kind == "close" else self._reset()
            return
        self.wfile.write(body[half:])

    def _reset(self) -> None:
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def _error(
        self, status: int, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(status, b"", {**named, **(headers or {})})

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(200, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_large(path):
        sha = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
    return entry


@pytest.fixture
def hub():
    """A hub with nothing on it."""
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def settings(hub):
    """Two workers, no login of whoever runs the tests, hardly any waiting."""
    return TransferSettings(workers=2, token="hf_none", endpoint=hub.endpoint, retries=QUICK)


class Vista:
    """A small VISTA-400K: what its publisher puts on the hub, and what of it is wanted here."""

    hub_id = "TIGER-Lab/VISTA-400K"

    def __init__(self, hub: Hub, data: Path) -> None:
        noise = random.Random(0).randbytes
        self.hub = hub
        self.raw = data / "raw" / "TIGER-Lab__VISTA-400K"
        self.files = {
            "README.md": b"card",
            ".gitattributes": b"not wanted",
            "long_video_caption/long_video_caption.json": noise(50_000),
            "long_video_caption/long_video_caption_1.tar": noise(50_000),
            "long_video_caption/long_video_caption_2.tar": noise(50_000),
            "event_relationship_qa/event_relationship_qa_1.tar": noise(50_000),
            "event_relationship_qa/event_relationship_qa.json": b"[]",
            "preview.mp4": b"not wanted",
        }

    @property
    def wanted(self) -> dict[str, bytes]:
        return {k: v for k, v in self.files.items() if k.endswith((".tar", ".json", ".md"))}

    def publish(self) -> str:
        return self.hub.add(self.hub_id, dict(self.files))

    def on_disk(self) -> dict[str, bytes]:
        """Everything that another program would see."""
        files = [path for path in self.raw.rglob("*") if path.is_file()]
        names = {path.relative_to(self.raw).as_posix(): path for path in files}
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if not name.startswith(".") and name != "download.json"
        }

    def assert_nothing_half(self) -> None:
        """Whatever lies under a published name is what was published."""
        for name, content in self.on_disk().items():
            assert self.wanted[name] == content, name


@pytest.fixture
def make_vista(hub):
    """VISTA-400K and a data root of one's own."""
    return lambda data: Vista(hub, data)


@pytest.fixture
def vista(make_vista, tmp_path):
    """Not published yet."""
    return make_vista(tmp_path)


@pytest.fixture
def fetch(tmp_path, settings):
    """Run a download to the end; what is missing, by source."""

    def run(selections=None, **options):
        chosen = selections or select(sources=["vista_400k"])
        plan = make_plan(chosen, tmp_path, settings, **options)
        return run_plan(plan, settings, threading.Event())

    return run


@pytest.fixture
def no_waiting(monkeypatch):
    """Seconds that anybody wanted to wait, without waiting them."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits

"""A hub on loopback: serves folders as model repositories, and can cut connections."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories below a folder, each as ``owner/name`` with the branches main and v1.

    A commit is the digest of its files.

    Attributes:
        served: paths of the files that were sent.
        cut: repositories whose weights end in the middle.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.served, self.cut = root, list[str](), set[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.root / repository).glob("*") if path.is_file())

    def commit(self, repository: str) -> str:
        content = b"".join(path.name.encode() + path.read_bytes() for path in self.files(repository))
        return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        words = urlsplit(self.path).path.strip("/").split("/")
        if words[0] == "heal":
            self.server.cut.clear()
            self._send(b"", {}, True)
            return
        api = words[:2] == ["api", "models"]
        repository, rest = "/".join(words[2:4] if api else words[:2]), words[4:] if api else words[2:]
        files = self.server.files(repository)
        if not files:
            self._send(b"", {"X-Error-Code": "RepoNotFound"}, True, 404)
            return
        commit = self.server.commit(repository)
        if len(rest) > 1 and rest[1] not in ("main", "v1", commit):
            self._send(b"", {"X-Error-Code": "RevisionNotFound"}, True, 404)
            return
        if api and rest[:1] == ["tree"]:
            listed = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _oid(p)} for p in files
            ]
            self._send(json.dumps(listed).encode(), {}, body)
        elif api:
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in files]
            self._send(json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode(), {}, body)
        elif rest[:1] == ["resolve"] and (path := self.server.root / repository / rest[2]).is_file():
            self._file(path, repository, commit, body)
        else:
            self._send(b"", {"X-Error-Code": "EntryNotFound"}, True, 404)

    def _file(self, path: Path, repository: str, commit: str, body: bool) -> None:
        content, headers = path.read_bytes(), {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": commit}
        if body:
            self.server.served.append(f"{repository}/{path.name}")
        if body and repository in self.server.cut and path.suffix in (".bin", ".safetensors"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self._send(content, headers, body)

    def _send(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()

"""The download against a server on this machine: whole, interrupted and resumed, damaged, absent."""

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rd.data.fetch import fetch
from rd.errors import UserError

FILES = {f"{split}.csv": f"{split} ".encode() * 40_000 for split in ("train", "valid", "test")}


def archive(files: dict[str, bytes]) -> bytes:
    """A .tar.gz with the given files, and members that must never be unpacked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for name, content in {**{f"corpus/{name}": data for name, data in files.items()}, "../evil.txt": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("corpus/link.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `data`; stops after `cut` bytes of an answer; `ranges` False: ignores the Range header."""

    data = b""
    cut: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/corpus.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if self.path != "/corpus.tar.gz":
            self.send_error(404)
            return
        if start and start >= len(self.server.data):
            self.send_error(416)
            return
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.data) - 1}/{len(self.server.data)}")
        self.end_headers()
        body = body[: self.server.cut]
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        server.data = archive(FILES)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole_download_leaves_three_files_and_nothing_else(tmp_path: Path, server: Server) -> None:
    out = tmp_path / "new" / "data"
    assert fetch(out, server.url, digest(server.data)) == out
    assert content(tmp_path) == {f"new/data/{name}": data for name, data in FILES.items()}
    fetch(out, server.url, digest(server.data))
    assert len(server.asked) == 1  # what is there is not fetched again


def test_interrupted_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.cut = 100_000
    with pytest.raises(UserError, match=r"interrupted at 100,000 of [\d,]+ bytes; run the command again"):
        fetch(tmp_path, server.url, digest(server.data))
    assert content(tmp_path) == {"corpus.tar.gz.part": server.data[:100_000]}
    server.cut = None
    fetch(tmp_path, server.url, digest(server.data))
    assert server.asked == [None, "bytes=100000-"]
    assert server.sent == len(server.data)  # no byte came twice
    assert content(tmp_path) == FILES


def test_server_without_range_starts_over(tmp_path: Path, server: Server) -> None:
    (tmp_path / "corpus.tar.gz.part").write_bytes(server.data[:5000])
    server.ranges = False
    fetch(tmp_path, server.url, digest(server.data))
    assert content(tmp_path) == FILES


def test_complete_part_is_taken_as_it_is(tmp_path: Path, server: Server) -> None:
    (tmp_path / "corpus.tar.gz.part").write_bytes(server.data)
    fetch(tmp_path, server.url, digest(server.data))
    assert content(tmp_path) == FILES
    assert server.sent == 0


def test_wrong_checksum(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match=f"wrong checksum: sha256 {digest(server.data)} .* expected {'0' * 64}"):
        fetch(tmp_path, server.url, "0" * 64)
    assert content(tmp_path) == {}  # a damaged part would never become right


@pytest.mark.parametrize("data", [archive({"train.csv": b"x"}), b"no archive"], ids=["files missing", "no archive"])
def test_foreign_archive(tmp_path: Path, server: Server, data: bytes) -> None:
    server.data = data
    with pytest.raises(UserError, match=r"no valid\.csv in the archive|not a readable \.tar\.gz"):
        fetch(tmp_path, server.url, digest(data))
    assert not list(tmp_path.glob("*.csv")) and not list(tmp_path.glob(".fetch-*"))


def test_not_found(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(tmp_path, server.url.replace("corpus", "other"))


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        with pytest.raises(UserError) as error:
            fetch(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}/corpus.tar.gz")
    assert "no connection" in str(error.value) and "\n" not in str(error.value)

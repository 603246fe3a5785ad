"""Downloads, from a server on this machine that misbehaves as asked."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from benchmarks.datasets import catalogue, downloads, own
from benchmarks.datasets.downloads import fetch
from benchmarks.datasets.prepared import prepare, verify
from benchmarks.errors import DataError, RequestError
from tests.datasets.conftest import write_zip
from tests.datasets.test_own import coco_files

CONTENT = os.urandom(700_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves `content` at every address; the switches say in which way it misbehaves."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.lengths = True
        self.cuts: list[int] = []  # close the connection after so many bytes of the next answers
        self.fails: list[int] = []  # status codes of the next answers, 0 for none
        self.versions: list[tuple[bytes, str]] = []  # content and ETag from the next answers on
        self.redirect = ""
        self.kind = "application/zip"
        self.length: int | None = None
        self.asked: list[str | None] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_port}/sets/parts.zip"
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.versions:
            self.content, self.etag = self.versions.pop(0)
        if self.fails and (code := self.fails.pop(0)):
            request.send_error(code)
            return
        if self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect)
            request.end_headers()
            return
        start = 0
        if wanted and self.ranges and request.headers.get("If-Range") in (self.etag, None):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(self.content)}")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.lengths:
            request.send_header("Content-Length", str(self.length or len(self.content) - start))
        request.send_header("Content-Type", self.kind)
        request.end_headers()
        body = self.content[start:]
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.001)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.stop()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_download_is_whole_and_found_again(server, tmp_path):
    lines: list[str] = []
    path = fetch(server.url, tmp_path, digest=SHA256, report=lines.append)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [path.name]
    assert lines == ["parts.zip: downloading, 0.7 MB"]
    assert fetch(server.url, tmp_path, digest=SHA256) == path
    assert server.asked == [None]


@pytest.mark.parametrize("known", ["etag", "digest"])
def test_cut_in_the_middle_it_goes_on_from_there(server, tmp_path, known):
    if known == "digest":
        server.etag = None
    server.cuts = [300_000, 200_000]
    lines: list[str] = []
    path = fetch(server.url, tmp_path, digest=SHA256 if known == "digest" else "", report=lines.append)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]
    assert "cut after 0.3 MB" in lines[1]


def test_a_later_run_goes_on(server, tmp_path):
    server.cuts, server.fails = [300_000], [0, *[500] * (downloads.RETRIES + 1)]
    with pytest.raises(DataError, match="the server answers 500"):
        fetch(server.url, tmp_path)
    assert len(names(tmp_path)) == 2
    assert not server.fails
    server.asked = []
    lines: list[str] = []
    assert fetch(server.url, tmp_path, report=lines.append).read_bytes() == CONTENT
    assert server.asked == ["bytes=300000-"]
    assert "0.3 MB are here already" in lines[0]


def test_killed_after_the_last_byte(server, tmp_path):
    path = fetch(server.url, tmp_path)
    part = path.rename(tmp_path / f"{path.name}.part")
    Path(f"{part}.json").write_text(f'{{"url": "{server.url}", "validator": "\\"v1\\""}}')
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[1:] == [f"bytes={len(CONTENT)}-"]


def test_what_changed_on_the_server_is_not_mixed(server, tmp_path):
    server.cuts, server.versions = [300_000], [(CONTENT, '"v1"'), (CONTENT[::-1], '"v2"')]
    lines: list[str] = []
    assert fetch(server.url, tmp_path, report=lines.append).read_bytes() == CONTENT[::-1]
    assert any("from the start" in line for line in lines)


@pytest.mark.parametrize("why", ["no ranges", "no etag"])
def test_where_it_cannot_go_on_it_starts_again(server, tmp_path, why):
    server.ranges, server.etag = why != "no ranges", None if why == "no etag" else '"v1"'
    server.cuts = [300_000]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_server_that_never_says_how_much(server, tmp_path):
    server.lengths = False
    lines: list[str] = []
    assert fetch(server.url, tmp_path, report=lines.append).read_bytes() == CONTENT
    assert "size unknown" in lines[0]


def test_a_wrong_digest_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match=r"its md5 is [0-9a-f]{32}, not 0{32}.*nothing was unpacked"):
        fetch(server.url, tmp_path, digest="md5:" + "0" * 32)
    assert names(tmp_path) == []
    for wrong in ("sha1:00", "sha256:xyz", "0" * 64):
        with pytest.raises(RequestError, match="write sha256: and 64"):
            downloads.UrlSource(server.url, tmp_path, wrong)


def test_answers_that_are_no_archive(server, tmp_path, monkeypatch):
    def refused(message: str, **switches: object) -> None:
        before = {name: getattr(server, name) for name in switches}
        for name, value in switches.items():
            setattr(server, name, value)
        with pytest.raises(DataError, match=message) as caught:
            fetch(server.url, tmp_path)
        assert "\n" not in str(caught.value)
        assert not [n for n in names(tmp_path) if n.endswith((".zip", ".lock"))]
        for name, value in before.items():
            setattr(server, name, value)

    refused("answers 404 .*check the address", fails=[404])
    refused("answers 403 .*wants a login", fails=[403])
    refused("answers 503 .*try again later", fails=[503] * 9)
    refused("a web page, not an archive", kind="text/html")
    refused("file:///etc/passwd' is not allowed", redirect="file:///etc/passwd")
    refused("sends us on to ftp://x/y", redirect="ftp://x/y")
    refused(r"99999\.0 GB are beyond the limit", length=99_999 * 10**9)
    monkeypatch.setattr(downloads, "MAX_TOTAL_BYTES", 500_000)
    refused("goes on beyond the limit", lengths=False)
    monkeypatch.undo()
    assert sum((tmp_path / n).stat().st_size for n in names(tmp_path)) < 1000


def test_a_transient_error_is_passed_over(server, tmp_path):
    server.fails = [503, 500]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_https_is_not_left():
    request = urllib.request.Request("https://a/x.zip")
    with pytest.raises(DataError, match="which is not safe"):
        downloads._Redirects().redirect_request(request, None, 302, "", {}, "http://a/x.zip")


def test_no_network(tmp_path, monkeypatch):
    with socket.socket() as s:  # a port where nobody listens
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/x.zip"
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"cannot be reached.*name the file with --from"):
        fetch(url, tmp_path)


def test_a_full_disk(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 64 * 2**20 + 1000})
    with monkeypatch.context() as m:
        m.setattr(downloads.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DataError, match=r"0\.7 MB are to come, 67\.1 MB are free; make room"):
            fetch(server.url, tmp_path)
    real = Path.open

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 2

        def write(self, block):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(block)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    def opened(path, mode="r", **kwargs):
        file = real(path, mode, **kwargs)
        return Full(file) if path.suffix == ".part" and mode in ("ab", "wb") else file

    with monkeypatch.context() as m:
        m.setattr(Path, "open", opened)
        with pytest.raises(DataError, match=r"No space left on device.*make room and run again"):
            fetch(server.url, tmp_path)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=524288-"


def test_two_runs_do_not_write_one_file(server, tmp_path):
    path = fetch(server.url, tmp_path)
    lock = path.with_name(path.name + ".lock")
    for owner in ("another-host 1", f"{socket.gethostname()} {os.getpid()}"):
        lock.write_text(owner)
        with pytest.raises(RequestError, match="another run is downloading"):
            fetch(server.url, tmp_path)
    lock.write_text(f"{socket.gethostname()} 99999999")  # of a run that was killed
    assert fetch(server.url, tmp_path) == path
    assert not lock.exists()


def test_prepare_from_an_address(server, tmp_path, neu_files, small_neu):
    server.content = write_zip(tmp_path / "n.zip", neu_files).read_bytes()
    local = prepare("neu_det", tmp_path / "a", tmp_path / "n.zip")
    server.cuts = [len(server.content) // 2]
    lines: list[str] = []
    data = prepare("neu_det", tmp_path / "b", server.url, report=lines.append)
    assert data.manifest_digest == local.manifest_digest
    assert names(tmp_path / "b") == ["neu_det"]
    asked = len(server.asked)
    prepare("neu_det", tmp_path / "b", server.url, report=lines.append)
    assert "up to date" in lines[-1]
    assert len(server.asked) == asked
    with pytest.raises(DataError, match="nothing was unpacked"):
        prepare("neu_det", tmp_path / "b", server.url, digest="md5:" + "0" * 32)
    with pytest.raises(DataError, match="nothing was unpacked"):
        prepare("neu_det", tmp_path / "b", tmp_path / "n.zip", digest="md5:" + "0" * 32)
    with pytest.raises(RequestError, match="for an archive, not for a folder"):
        prepare("neu_det", tmp_path / "b", tmp_path / "a", digest="md5:" + "0" * 32)
    assert verify("neu_det", tmp_path / "b").manifest_digest == local.manifest_digest
    with pytest.raises(RequestError, match="only http:// and https://"):
        prepare("neu_det", tmp_path / "b", "ftp://a/b.zip")
    server.content = b"no zip"
    with pytest.raises(DataError, match="not a zip archive"):
        prepare("neu_det", tmp_path / "c", server.url)


def test_a_refused_set_is_not_downloaded_again(server, tmp_path):
    server.content = write_zip(tmp_path / "s.zip", coco_files() | {"set/images/0.png": b"no image"}).read_bytes()
    with pytest.raises(DataError, match=r"parts\.zip|corrupt_image=drop"):
        own.prepare("mine", tmp_path / "d", server.url)
    own.prepare("mine", tmp_path / "d", server.url, policy={"corrupt_image": "drop"})
    assert len(server.asked) == 1
    assert names(tmp_path / "d") == ["mine"]


def test_a_catalogued_set_is_downloaded_by_itself(server, tmp_path, monkeypatch):
    from dataclasses import replace

    server.content = write_zip(tmp_path / "s.zip", coco_files()).read_bytes()
    digest = "md5:" + hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    spec = replace(catalogue.UNVERIFIED["dspcbsd_plus"], url=server.url, digest=digest, classes=(), labels={})
    monkeypatch.setitem(catalogue.UNVERIFIED, "dspcbsd_plus", spec)
    data = own.prepare("dspcbsd_plus", tmp_path / "d", None)
    assert len(data.images) == 6
    lines: list[str] = []
    own.prepare("dspcbsd_plus", tmp_path / "d", None, report=lines.append)
    assert "up to date" in lines[-1]
    monkeypatch.setitem(catalogue.UNVERIFIED, "dspcbsd_plus", replace(spec, digest="md5:" + "0" * 32))
    with pytest.raises(DataError, match="nothing was unpacked"):
        own.prepare("dspcbsd_plus", tmp_path / "d", None, force=True)

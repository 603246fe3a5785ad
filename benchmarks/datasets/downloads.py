"""Archives from the web: resumed where they were cut, limited in size, checked before anyone looks inside."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from benchmarks.cli import console
from benchmarks.datasets.sources import MAX_TOTAL_BYTES, Source, ZipSource, open_source
from benchmarks.errors import DataError, RequestError
from benchmarks.files import sync

Say = Callable[[str], object]
"""Shows or logs a line of text."""

TIMEOUT_S = 30
RETRIES = 5
"""Attempts after one that brought nothing new."""
PAUSE_S = 0.5
"""Before another attempt, doubled with each that brings nothing."""
_BLOCK = 1 << 18
_EVERY_S = 10  # plain lines of progress
_SPARE = 64 * 2**20  # disk space that a download leaves
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = (OSError, http.client.HTTPException)  # what a connection that breaks raises


def is_url(source: Path | str | None) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def parse_digest(text: str) -> tuple[str, str]:
    """Algorithm and hexadecimal digest of "sha256:..." or "md5:...". RequestError for anything else."""
    algorithm, _, value = text.partition(":")
    length = {"sha256": 64, "md5": 32}.get(algorithm)
    if length is None or not re.fullmatch(f"[0-9a-fA-F]{{{length}}}", value):
        raise RequestError(f"--digest {text}: write sha256: and 64, or md5: and 32 hexadecimal digits")
    return algorithm, value.lower()


class UrlSource(Source):
    """An archive at an address, fetched when its files are first asked for.

    What arrived is kept in `folder` until `discard`, so that a set that is refused for a finding can be prepared again
    without another download.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        digest: str = "",
        report: Say | None = None,
        without: Collection[str] = (),
    ) -> None:
        super().__init__(Path(_last_part(url)))
        self._url, self._folder, self._report, self._without = url, folder, report, without
        self._digest = digest
        if digest:
            parse_digest(digest)
        self._zip: Source | None = None

    def _archive(self) -> Source:
        if self._zip is None:
            path = fetch(self._url, self._folder, digest=self._digest, report=self._report)
            try:
                self._zip = ZipSource(path, self._without)
            except DataError:
                path.unlink()  # not an archive that we take; kept, it would be found complete for ever
                raise
        return self._zip

    def names(self) -> list[str]:
        return self._archive().names()

    def read(self, name: str) -> bytes:
        return self._archive().read(name)

    def fingerprint(self) -> str:
        return f"{self._url} {self._digest}".rstrip()

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
        with contextlib.suppress(OSError):  # unless there is something in it
            self._folder.rmdir()

    def discard(self) -> None:
        if self._zip is not None:
            self._zip.close()
        (self._folder / _file_name(self._url)).unlink(missing_ok=True)


def open_any(
    source: Path | str, root: Path, digest: str = "", report: Say | None = None, without: Collection[str] = ()
) -> Source:
    """The source at a path or an address; downloads go below the data root `root`."""
    if is_url(source):
        return UrlSource(str(source), root / ".downloads", digest, report, without)
    if "://" in str(source):
        raise RequestError(f"--from {source}: only http:// and https:// addresses are downloaded; or name a file")
    opened = open_source(source, without)
    if digest:
        try:
            if not Path(source).is_file():
                raise RequestError("--digest is for an archive, not for a folder; leave it out")
            _check(Path(source), str(source), digest)
        except (DataError, RequestError):
            opened.close()
            raise
    return opened


def fetch(url: str, folder: Path, *, digest: str = "", report: Say | None = None) -> Path:
    """Download an archive into `folder`, or go on with it, or find it there complete.

    What has arrived is kept in a `.part` beside its place; it is continued only if the server says that it still
    has the same file. The name without `.part` appears when everything is there and its digest is right.

    Args:
        digest: "algorithm:hex", or "" for none.
        report: takes lines of progress; a bar is drawn instead where the console is a terminal.

    Raises:
        RequestError: the address is wrong, or another run is fetching it.
        DataError: it cannot be had, is too large, or is not what the digest says; the message names the remedy.
    """
    target = folder / _file_name(url)
    part = target.with_name(target.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(target.name + ".lock")):
        there = target if target.exists() else part
        if there is part:
            _Download(url, part, bool(digest), report).run()
        try:
            _check(there, url, digest)
        except DataError:
            there.unlink()
            raise
        finally:
            _note(part).unlink(missing_ok=True)
        if there is part:
            os.replace(part, target)
    return target


class _Download:
    """One file on its way into `part`; beside it lies what tells whether the server still has the same file."""

    def __init__(self, url: str, part: Path, checked: bool, report: Say | None) -> None:
        self.url, self.part, self.checked, self.report = url, part, checked, report
        self.size: int | None = None
        self._opener = urllib.request.build_opener(_Redirects)

    def run(self) -> None:
        failures = 0
        with _Meter(self.report) as meter:
            while True:
                before = self._have()
                try:
                    self._attempt(meter)
                    return
                except _BROKEN as e:
                    have = self._have()
                    failures = 0 if have > before else failures + 1
                    reason = str(getattr(e, "reason", "") or e) or type(e).__name__
                    if not _again(e, have) or failures > RETRIES:
                        raise DataError(self._why(e, reason)) from None
                    meter.line(f"{self.url}: cut after {_bytes(have)} ({reason}); going on")
                    time.sleep(PAUSE_S * 2**failures)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, meter: _Meter) -> None:
        """Ask for what is missing, and write it. Raises `_BROKEN` when the connection breaks, DataError otherwise."""
        have = self._have()
        headers = {"User-Agent": "canet-bench", "Accept-Encoding": "identity", **self._range(have)}
        request = urllib.request.Request(self.url, headers=headers)
        try:
            opened = self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as e:
            if e.code == 416 and e.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it is here
            if e.code == 416:
                self.part.unlink()
                raise http.client.HTTPException("the file at the address has changed") from None
            raise
        with opened as response:
            kind = response.headers.get_content_type()
            if kind in ("text/html", "application/xhtml+xml"):
                raise DataError(
                    f"{self.url}: the server answers with a web page, not an archive (a login or a consent, perhaps); "
                    "download it in a browser and name the file with --from"
                )
            start = _start(response) if response.status == 206 else 0
            if start not in (0, have):
                raise DataError(f"{self.url}: the server sends other bytes than it was asked for; try again later")
            if have and start == 0:
                meter.line(f"{self.url}: the server does not go on from {_bytes(have)}; from the start")
            length = response.headers.get("Content-Length", "")
            self.size = start + int(length) if length.isdigit() else None
            self._room(start)
            tag = response.headers.get("ETag") or ""
            validator = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
            with self._writing():
                _note(self.part).write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")
                out = self.part.open("ab" if start else "wb")
            with out:
                meter.begin(_last_part(self.url), self.size, start)
                self._copy(response, out, start, meter)
                with self._writing():
                    sync(out.fileno())

    def _copy(self, response: IO[bytes], out: IO[bytes], done: int, meter: _Meter) -> None:
        while block := response.read(_BLOCK):
            done += len(block)
            with self._writing():
                out.write(block)
                out.flush()
                if done > MAX_TOTAL_BYTES:
                    out.truncate(0)
            if done > MAX_TOTAL_BYTES:
                raise DataError(
                    f"{self.url}: it goes on beyond the limit of {_bytes(MAX_TOTAL_BYTES)}; nothing is kept"
                )
            meter.at(done)
        if self.size is not None and done != self.size:
            raise http.client.HTTPException("the connection was closed")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The disk's errors, told apart from the network's."""
        try:
            yield
        except OSError as e:
            raise DataError(f"{self.part}: cannot be written ({e.strerror or e}); make room and run again") from None

    def _range(self, have: int) -> dict[str, str]:
        """What asks for the rest, where a part is here that may be continued: the server knows it, or a digest does."""
        try:
            note = json.loads(_note(self.part).read_bytes())
            validator, same = note["validator"], note["url"] == self.url
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        if not have or not same or not (validator or self.checked):
            return {}
        return {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})

    def _room(self, have: int) -> None:
        """DataError when the file is beyond the limit, or the disk too full for it."""
        if self.size is None:
            return
        if self.size > MAX_TOTAL_BYTES:
            raise DataError(f"{self.url}: {_bytes(self.size)} are beyond the limit of {_bytes(MAX_TOTAL_BYTES)}")
        free = shutil.disk_usage(self.part.parent).free
        if self.size - have > free - _SPARE:
            raise DataError(
                f"{self.part.parent}: {_bytes(self.size - have)} are to come, {_bytes(free)} are free; make room, or "
                "name another place with --data-root"
            )

    def _why(self, e: BaseException, reason: str) -> str:
        if isinstance(e, urllib.error.HTTPError):
            if e.code in (401, 403):
                remedy = "it wants a login: download it in a browser and name the file with --from"
            elif e.code in (404, 410):
                remedy = "nothing is there: check the address on the set's homepage"
            else:
                remedy = "try again later" if e.code >= 500 else "check the address"
            return f"{self.url}: the server answers {e.code} ({e.reason}); {remedy}"
        if have := self._have():
            return f"{self.url}: cut after {_bytes(have)}, which are kept ({reason}); run again to go on"
        return (
            f"{self.url}: cannot be reached ({reason}); without a network, download it elsewhere and name the "
            "file with --from"
        )


def _again(e: BaseException, have: int) -> bool:
    """Whether another attempt may help: not where the server has answered, or nothing was ever to be had."""
    if isinstance(e, urllib.error.HTTPError):
        return e.code in _TRANSIENT
    return have > 0 or not isinstance(e, urllib.error.URLError)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows neither to other protocols nor from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urllib.parse.urlsplit(req.full_url).scheme, urllib.parse.urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise DataError(
                f"{req.full_url}: the server sends us on to {newurl}, which is not safe; nothing was fetched"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Meter:
    """A bar on a terminal, else a line every ten seconds; silent without `report`."""

    def __init__(self, report: Say | None) -> None:
        self._report = report
        self._bar: Progress | None = None
        if report is not None and console.is_terminal:
            columns = (DownloadColumn(), TransferSpeedColumn(), TextColumn("ETA"), TimeRemainingColumn(compact=True))
            self._bar = Progress(TextColumn("{task.description}", markup=False), BarColumn(), *columns, console=console)
            self._task = self._bar.add_task("connecting", total=None)
        self._name, self._total, self._last = "", 0, 0.0

    def __enter__(self) -> _Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._report is not None:
            self._report(text)

    def begin(self, name: str, total: int | None, have: int) -> None:
        self._name, self._total, self._last = name, total or 0, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, description=name, total=total, completed=have)
        else:
            size = _bytes(total) if total else "size unknown"
            self.line(f"{name}: downloading, {size}" + (f", {_bytes(have)} are here already" if have else ""))

    def at(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() - self._last > _EVERY_S:
            self._last = time.monotonic()
            share = f" of {_bytes(self._total)} ({done / self._total:.0%})" if self._total else ""
            self.line(f"{self._name}: {_bytes(done)}{share}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One run at a time, on whatever machine. RequestError while another is at it; a dead one's lock is taken over."""
    mine = f"{socket.gethostname()} {os.getpid()}"
    try:
        host, _, pid = path.read_text(encoding="utf-8").rpartition(" ")
        if host == socket.gethostname() and not (pid.isdigit() and psutil.pid_exists(int(pid))):
            path.unlink(missing_ok=True)
    except OSError:
        pass
    try:
        with path.open("x", encoding="utf-8") as f:
            f.write(mine)
    except FileExistsError:
        raise RequestError(f"another run is downloading this; wait for it, or remove {path}") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _check(path: Path, what: str, digest: str) -> None:
    """DataError when a file does not have the digest."""
    if not digest:
        return
    algorithm, expected = parse_digest(digest)
    found = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            found.update(block)
    if found.hexdigest() != expected:
        raise DataError(
            f"{what}: its {algorithm} is {found.hexdigest()}, not {expected}; it is another file, or was changed on "
            "the way: nothing was unpacked"
        )


def _start(response: Any) -> int:
    """Where a partial answer begins; -1 when it does not say."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found.group(1)) if found else -1


def _last_part(url: str) -> str:
    last = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._+-]", "_", last).lstrip(".")[-60:] or "download"


def _file_name(url: str) -> str:
    """What a download is called: the last part of its address, and enough of a hash to tell addresses apart."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{_last_part(url)}"


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n} bytes"

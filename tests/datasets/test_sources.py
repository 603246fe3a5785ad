"""Archives and folders: what is hostile is refused, what is damaged is named."""

from __future__ import annotations

import os
import stat
import struct
import zipfile

import pytest

from benchmarks.datasets import sources
from benchmarks.datasets.sources import open_source
from benchmarks.errors import DataError, RequestError
from tests.datasets.conftest import write_folder, write_zip


def test_zip_and_folder_give_the_same(tmp_path):
    files = {"a/b.txt": b"1", "c.txt": b"22"}
    noise = {"__MACOSX/a/._b.txt": b"x", ".DS_Store": b"x", "a/Thumbs.db": b"x"}
    for path in (write_zip(tmp_path / "x.zip", files | noise), write_folder(tmp_path / "x", files | noise)):
        source = open_source(path)
        assert {name: source.read(name) for name in source.names()} == files
        source.close()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "a\nb", "\x1b[2J"])
def test_paths_that_escape_are_refused(tmp_path, name):
    path = write_zip(tmp_path / "x.zip", {"ok.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match="outside the archive"):
        open_source(path)


def windows_zip(path, files):
    """As some tools on Windows write it, with its own separator."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", "\\")
            archive.writestr(info, data)
    return path


def test_an_archive_with_backslashes(tmp_path):
    source = open_source(windows_zip(tmp_path / "x.zip", {"set/": b"", "set/a.txt": b"1", "b.txt": b"2"}))
    assert source.names() == ["b.txt", "set/a.txt"]
    assert source.read("set/a.txt") == b"1"
    with pytest.raises(DataError, match="outside the archive"):
        open_source(windows_zip(tmp_path / "y.zip", {"a/../../evil": b"1"}))


@pytest.mark.parametrize(("name", "message"), [("a.json", "name the folder that holds it"), ("a.7z", "unpack it")])
def test_what_is_no_archive_is_said_so(tmp_path, name, message):
    (tmp_path / name).write_text("{}")
    with pytest.raises(RequestError, match=message):
        open_source(tmp_path / name)


def test_an_archive_of_the_folder_itself(tmp_path):
    source = open_source(write_zip(tmp_path / "x.zip", {"./": b"", ".": b"", "./a.txt": b"1"}))
    assert source.names() == ["./a.txt"]


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match="11 bytes are beyond the limit"):
        open_source(write_folder(tmp_path / "d", {"a": b"x" * 11})).read("a")


def test_a_header_that_lies_is_noticed(tmp_path):
    for claimed in (10, 100_000):
        path = write_zip(tmp_path / "x.zip", {"a": b"{}" * 5000})
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, content.rfind(b"PK\x01\x02") + 24, claimed)
        path.write_bytes(content)
        with pytest.raises(DataError, match="is damaged in the archive"):
            open_source(path).read("a")


def test_links_are_refused_in_a_zip_and_followed_in_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link"):
        open_source(tmp_path / "x.zip")
    elsewhere = write_folder(tmp_path / "elsewhere", {"c": b"2", "e/f": b"3"})
    folder = write_folder(tmp_path / "d", {"a": b"1"})
    os.symlink(elsewhere / "c", folder / "b")
    os.symlink(elsewhere, folder / "sub")
    os.symlink(folder, folder / "round")  # leads back: not again
    os.symlink(tmp_path / "gone", folder / "lost.png")
    source = open_source(folder)
    assert source.names() == ["a", "b", "sub/c", "sub/e/f"]
    assert source.read("sub/e/f") == b"3"
    assert source.broken() == ["lost.png"]


def test_a_bomb_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"zeros": bytes(8 * 2**20)})
    with pytest.raises(DataError, match="beyond the limits"):
        open_source(path)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_MEMBERS", 2)
    with pytest.raises(DataError, match="more than the 2 allowed"):
        open_source(write_zip(tmp_path / "x.zip", {"a": b"", "b": b"", "c": b""}))


def test_a_member_that_occurs_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "2")
    with pytest.raises(DataError, match="occurs twice"):
        open_source(tmp_path / "x.zip")


def test_damage_inside_a_zip_is_found_when_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.bin", b"A" * 1000)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.zip:a\.bin is damaged"):
        open_source(path).read("a.bin")


def test_what_is_no_archive_or_not_there(tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(DataError, match="not a zip archive"):
        open_source(tmp_path / "x.zip")
    with pytest.raises(RequestError, match="no such file"):
        open_source(tmp_path / "y.zip")

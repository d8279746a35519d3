"""Files and folders that are whole or not there."""

import os
import resource
from contextlib import contextmanager

import pytest

from vlprompt.errors import UserError
from vlprompt.files import folder_beside, whole_file, whole_folder, write_text
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.page import write_page


@contextmanager
def no_room():
    """As on a full disk: no file may grow over 100 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    file = tmp_path / "a" / "file.txt"
    for text in ("größer", "other"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert names(file.parent) == {"file.txt"}


def test_a_file_stays_as_it_was_after_an_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    with pytest.raises(TypeError), whole_file(file) as beside:
        beside.write_text("half") + None
    with pytest.raises(UserError, match=r"file' cannot be written \(File too large\): give"), no_room():
        write_text(file, "x" * 200)
    assert names(tmp_path) == {"file"} and file.read_text() == "before"


@pytest.mark.parametrize(
    "write",
    [
        lambda file: write_text(file, ""),
        lambda file: write_page(file, "title", "", []),
        lambda file: Lengths((1,), (2,)).save(file),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, write):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file '.*file/below' cannot be written .*: give a place"):
        write(tmp_path / "file" / "below")
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "mine"


def test_a_folder_takes_the_place_of_its_like_only(tmp_path):
    for text in ("first", "second"):
        with whole_folder(tmp_path / "out", "thing", "marker") as beside:
            (beside / "marker").write_text(text)
        assert (tmp_path / "out" / "marker").read_text() == text
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="photos' exists and is no thing: give another folder or remove it"):
        folder_beside(tmp_path / "photos", "thing", "marker")
    assert names(tmp_path) == {"out", "photos"}


def test_a_folder_without_room_leaves_what_was_there(tmp_path):
    with whole_folder(tmp_path / "out", "thing", "marker") as beside:
        (beside / "marker").write_text("before")
    with (
        pytest.raises(UserError, match=r"out' cannot be written \(File too large\): make room"),
        no_room(),
        whole_folder(tmp_path / "out", "thing", "marker") as beside,
    ):
        (beside / "marker").write_text("x" * 200)
    assert names(tmp_path) == {"out"} and (tmp_path / "out" / "marker").read_text() == "before"


def test_a_folder_may_be_the_present_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(os.curdir, "thing", "marker") as beside:
        (beside / "marker").touch()
    assert names(tmp_path / "here") == {"marker"}

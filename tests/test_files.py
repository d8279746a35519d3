"""Files and folders that are whole or not there."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import vlprompt
from vlprompt.benchmark.protocols import Cell, run_cell
from vlprompt.benchmark.store import Store
from vlprompt.errors import UserError
from vlprompt.files import LISTED, MARK, check_targets, folder_beside, whole_file, whole_folder, write_text
from vlprompt.methods.lengths import Lengths
from vlprompt.reports.page import write_page


@contextmanager
def no_room(size=100):
    """As on a full disk: no file may grow over so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:  # Python itself would leave cut-off files
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
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
        with whole_folder(tmp_path / "out", "thing") as beside:
            (beside / "marker").write_text(text)
        assert (tmp_path / "out" / "marker").read_text() == text
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(
        UserError, match="photos' exists and is no thing of ours: it was not made by vlprompt"
    ):
        folder_beside(tmp_path / "photos", "thing")
    assert names(tmp_path) == {"out", "photos"}


def test_only_what_was_made_here_is_replaced(tmp_path):
    """A stranger's file among ours, a stranger's folder under the names that we use on the side, a link."""

    def write(force=False):
        with whole_folder(tmp_path / "out", "thing", force=force) as beside:
            (beside / "ours").write_text("ours")

    write()
    note = tmp_path / "out" / "below" / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    with pytest.raises(UserError, match=r"out' holds 'below/note.txt': it was not made by vlprompt"):
        write()
    assert note.read_text() == "mine" and names(tmp_path) == {"out"}
    write(force=True)
    assert names(tmp_path / "out") == {"ours", LISTED}
    for side in ("out.part", ".out.old"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "note.txt").write_text("mine")
        with pytest.raises(UserError, match=f"{side}' exists and is no thing of ours"):
            write(force=True)
        assert names(tmp_path / side) == {"note.txt"}
        (tmp_path / side / "note.txt").unlink()
        (tmp_path / side).rmdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match="link' is a link: give the name of what it points to"):
        folder_beside(tmp_path / "link", "thing", force=True)
    with pytest.raises(UserError, match="output '/' is no folder of its own"):
        folder_beside(Path("/"), "thing", force=True)
    with pytest.raises(UserError, match="out' is a thing and no other: give another name"):
        folder_beside(tmp_path / "out", "other")


def test_targets_are_tried_before_any_work(tmp_path):
    mine, ours = tmp_path / "mine.html", tmp_path / "ours.html"
    mine.write_text("mine")
    write_page(ours, "title", "", [])
    check_targets(ours, tmp_path / "new" / "file")
    check_targets(mine, force=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (mine, "mine.html' exists: it was not made by vlprompt"),
        (tmp_path / "dangling", "is a link"),
        (tmp_path / "pipe", "is no file"),
        (tmp_path, "is no file"),
        (mine / "below", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(UserError, match=words):
            check_targets(path)
    assert names(tmp_path) == {"mine.html", "ours.html", "dangling", "pipe"}


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    file = tmp_path / "a[1].txt"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    left = tmp_path / f".{file.name}.{dead.stdout.strip()}-0123abcd.part"
    left.write_text("half")
    alive = tmp_path / f".{file.name}.{os.getpid()}-0123abcd.part"
    alive.write_text("half")
    write_text(file, MARK)
    assert names(tmp_path) == {file.name, alive.name}


def test_files_of_a_folder_are_as_readable_as_the_user_wants(tmp_path):
    with whole_folder(tmp_path / "out", "thing") as beside:
        (beside / "weights").touch(0o600)
    os.umask(mask := os.umask(0))
    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_without_room_leaves_what_was_there(tmp_path):
    with whole_folder(tmp_path / "out", "thing") as beside:
        (beside / "marker").write_text("before")
    with (
        pytest.raises(UserError, match=r"out' cannot be written \(File too large\): make room"),
        no_room(),
        whole_folder(tmp_path / "out", "thing") as beside,
    ):
        (beside / "marker").write_text("x" * 200)
    assert names(tmp_path) == {"out"} and (tmp_path / "out" / "marker").read_text() == "before"


def test_a_folder_that_never_began_is_begun_again(tmp_path):
    with pytest.raises(UserError, match="File too large"), no_room(0):
        folder_beside(tmp_path / "out", "thing")
    assert not names(tmp_path)
    assert names(folder_beside(tmp_path / "out", "thing")) == {LISTED}


def test_a_folder_may_be_the_present_one(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(os.curdir, "thing") as beside:
        (beside / "marker").touch()
    assert names(tmp_path / "here") == {"marker", LISTED}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "clf"
    assert vlprompt("fit", "toy:colours", "--method", "zeroshot", "--shots", 1, "--out", folder) == 0
    return folder


FEW = ["--shots", 1, "--seeds", 1]
WRITERS = {
    "fit": ["fit", "toy:colours", "--method", "zeroshot", "--shots", 1, "--out", "OUT"],
    "search": ["search", "toy:colours", *FEW, "--epochs", 1, "--out", "OUT.json"],
    "export onnx": ["export", "TUNED", "OUT.onnx"],
    "export transformers": ["export", "TUNED", "OUT", "--format", "transformers"],
    "bench": ["bench", "--methods", "zeroshot", "--datasets", "fonts", *FEW, "--out", "OUT", "--workers", 1],
    "report": ["report", "RESULTS", "--out", "OUT.html"],
    "tables": ["report", "RESULTS", "--out", "OUT.html", "--tables", "OUT"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    cell = Cell(suite="toy", protocol="few-shot", dataset="fonts", method="zeroshot", shots=1)
    Store(folder / "results.jsonl").append(run_cell(cell))
    return folder


def filled_in(command, out, tuned, results):
    """A command of ``WRITERS`` with its places."""
    places = {"OUT": str(out), "TUNED": str(tuned), "RESULTS": str(results)}
    words = [str(word) for word in WRITERS[command]]
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    return words


@pytest.mark.parametrize("command", WRITERS)
def test_no_command_leaves_half_a_file_on_a_full_disk(command, tuned, results, tmp_path, capsys):
    words = filled_in(command, tmp_path / "out", tuned, results)
    capsys.readouterr()
    with no_room():
        assert vlprompt(*words) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("vlprompt: ")] == said[-1:], said
    assert "cannot be " in said[-1] and "File too large" in said[-1], said
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size}
    assert left == set()


@pytest.mark.parametrize("command", WRITERS)
def test_every_command_tries_its_targets_before_any_work(command, tuned, results, tmp_path, capsys):
    """A dangling link, and a file where a folder must be."""
    words = filled_in(command, tmp_path / "out", tuned, results)
    target = Path(words[2] if words[0] == "export" else words[words.index("--out") + 1])
    in_folder = {"bench": "report.html"}.get(command)
    for kind in ("link", "below a file"):
        if kind == "link":
            place = target / in_folder if in_folder else target
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(tmp_path / "nowhere" / "deep")
        else:
            target.parent.mkdir(exist_ok=True)
            (tmp_path / "file").write_text("mine")
            below = tmp_path / "file" / target.name
            words = [str(below) if word == str(target) else word for word in words]
        capsys.readouterr()
        start = time.monotonic()
        assert vlprompt(*words) == 2
        said = capsys.readouterr().err.splitlines()
        assert "is a link" in said[-1] or "cannot be" in said[-1], said
        assert time.monotonic() - start < 60
        if kind == "link":
            place.unlink()
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"file"}


def test_what_a_killed_process_left_is_not_taken_over(tmp_path):
    """Such as the files that safetensors writes first, under names of their own; checkpoints are."""
    for kept, expected in (("", ["new"]), ("old/*", ["new", "old"])):
        beside = folder_beside(tmp_path / "out", "thing")
        (beside / ".tmpXYZ").write_text("")
        (beside / "old").mkdir()
        (beside / "old" / "file").write_text("")
        with whole_folder(tmp_path / "out", "thing", kept) as beside:
            (beside / "new").write_text("")
        names = [path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."]
        assert sorted(names) == expected and (tmp_path / "out" / ".tmpXYZ").exists() == bool(kept)

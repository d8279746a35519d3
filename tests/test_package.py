"""The package that is built: installed without the checkout, it has all that it needs."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; print(build_meta.build_{}(r'{}'))"
TRIAL = """
import vlprompt
from vlprompt.jobs.demo import Entry, demo
assert "{target}" in vlprompt.__file__, vlprompt.__file__
demo(__import__("pathlib").Path("demo"), (1,), 1, entries={{"zeroshot": Entry("Zero-shot CLIP", "zeroshot")}})
"""
"""The demo with its first row only; the others need no other files."""


def build(kind: str, source: Path, out: Path) -> Path:
    """An sdist or a wheel of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind, out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the sdist of what is here."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    with tarfile.open(build("sdist", folder, folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return build("wheel", source, folder)


def test_the_wheel_has_every_file_of_the_package(wheel):
    package = ROOT / "src" / "vlprompt"
    ours = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert ours == {n for n in zipfile.ZipFile(wheel).namelist() if not n.startswith("vlprompt-")}


def test_the_demo_runs_from_the_wheel(wheel, tmp_path):
    target, work = tmp_path / "installed", tmp_path / "elsewhere"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(target)
    variables = os.environ | {"PYTHONPATH": str(target)}
    trial = TRIAL.format(target=target.as_posix())
    subprocess.run([sys.executable, "-c", trial], cwd=work, env=variables, check=True)
    assert (work / "demo" / "report.html").is_file() and (
        work / "demo" / "zeroshot" / "config.json"
    ).is_file()


def test_it_says_which_pythons_it_runs_on(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
    said = archive.read(name).decode()
    assert "Requires-Python: >=3.11" in said
    assert all(f"Programming Language :: Python :: 3.{minor}" in said for minor in (11, 12, 13))


def test_nothing_in_it_needs_one_system():
    only_unix = ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "curses", "syslog")
    for path in (ROOT / "src").rglob("*.py"):
        words = path.read_text(encoding="utf-8").splitlines()
        imports = [line.split()[1].split(".")[0] for line in words if line.startswith(("import ", "from "))]
        assert not set(imports) & set(only_unix), path

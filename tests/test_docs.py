"""What the pages show is there: commands and flags, Python, links, error lines. Nothing of it is run."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache, wraps
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro
import yaml

from vlprompt.cli import main as cli
from vlprompt.methods.base import Method

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = (ROOT, ROOT / "src" / "vlprompt")
"""Where the paths that a page names start."""
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAG = re.compile(r"--[a-z][a-z-]*")
CONFIG = "data: toy:digits\nout: again\nepochs: 1\n"
"""Stands for the fit.yaml of an earlier run."""


class Shown(NamedTuple):
    """Something that a page shows."""

    page: str
    text: str


def blocks(*languages: str) -> Iterator[Shown]:
    """The code blocks in some languages."""
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if language in languages:
                yield Shown(page.name, text)


def prose() -> Iterator[Shown]:
    """The pages without their code blocks."""
    for page in PAGES:
        yield Shown(page.name, FENCE.sub("", page.read_text(encoding="utf-8")))


def commands() -> list[Shown]:
    """Every vlprompt command of a code block, in one line."""
    return [
        Shown(page, line.strip())
        for page, text in blocks("bash")
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("vlprompt ")
    ]


def mentioned() -> list[Shown]:
    """Every vlprompt command in the prose; its arguments may be left out."""
    found = [
        Shown(page, " ".join(code.split()))
        for page, text in prose()
        for code in re.findall(r"`(vlprompt [^`]+)`", text)
    ]
    return list(dict.fromkeys(found))


class Parsed(Exception):  # noqa: N818
    """The command line was understood; nothing further is done."""


@pytest.fixture
def only_parse(monkeypatch):
    """``tyro.cli`` that parses and stops."""
    real = tyro.cli

    def parse(target, **options):
        real(wraps(target)(lambda *_, **__: None) if inspect.isfunction(target) else target, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse)
    monkeypatch.chdir(ROOT)  # a page names example files from there


@pytest.mark.parametrize("shown", commands(), ids=str)
def test_commands_of_code_blocks_are_understood(shown, only_parse, tmp_path, capsys):
    words = shlex.split(shown.text, comments=True)[1:]
    if "--config" in words:
        earlier = tmp_path / "fit.yaml"
        earlier.write_text(CONFIG)
        words[words.index("--config") + 1] = str(earlier)
    if words[-1] == "--help":
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0
    else:
        with pytest.raises(Parsed):
            pytest.fail(f"{shown}: exit code {cli.main(words)}, {capsys.readouterr().err}")


@pytest.mark.parametrize("shown", mentioned(), ids=str)
def test_commands_of_the_prose_have_these_flags(shown, capsys):
    name, *words = shlex.split(shown.text)[1:]
    if name == "COMMAND":
        return
    assert name in cli.COMMANDS, shown
    method = words[words.index("--method") + 1] if "--method" in words else ""
    known = flags_of(name, "" if method == "NAME" else method, capsys)
    assert set(FLAG.findall(" ".join(words))) <= known, shown


def flags_of(name: str, method: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        cli.main([name, *(["--method", method] if method else []), "--help"])
    return {*FLAG.findall(capsys.readouterr().out), "--config", "--quiet"}


@pytest.mark.parametrize(
    "shown", list(blocks("python")), ids=lambda shown: f"{shown.page}: {shown.text[:40]}"
)
def test_python_compiles_and_its_imports_are_there(shown):
    compile(shown.text, shown.page, "exec")
    for line in re.findall(r"^from vlprompt.* import .*$", shown.text, re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    if page.name == "moving.md":
        return  # it names files of other projects
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]*\w+\.py)`", text)
    named += re.findall(r"^    ([a-z_]+/)  ", text, re.MULTILINE)
    assert named or page.name != "CONTRIBUTING.md"
    absent = [name for name in named if not any((place / name).exists() for place in PLACES)]
    assert not absent, absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


@cache
def anchors(page: Path) -> set[str]:
    """The headings of a page as the site names them."""
    slugify = pytest.importorskip("markdown.extensions.toc").slugify
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slugify(title, "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def test_all_hooks_of_a_method_are_on_its_page():
    text = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    no_hooks = {"forward", "preset", "load_parameters", "transfer", "Settings"}
    hooks = [name for name in vars(Method) if not name.startswith("_") and name not in no_hooks]
    absent = [name for name in hooks if not re.search(rf"[`.]{name}\b", text)]
    assert not absent, absent


def test_error_lines_of_troubleshooting_are_in_the_source():
    source = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "src").rglob("*.py")))
    source = re.sub(r'"\s*f?"', "", source)  # strings that go on in the next line
    source = re.sub(r"\{[^{}]*\}", "...", source)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    lines = [line for row in rows for line in re.findall(r"`(.*?)`", row)]
    assert len(lines) > 30
    for line in lines:
        words = [re.escape(word) for word in re.split(r"\.\.\.|\d+", line)]
        assert re.search(".{1,40}?".join(words), source), f"no error says: {line}"


def test_every_page_is_in_the_navigation_and_nothing_comes_from_other_hosts():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {page for entry in config["nav"] for page in entry.values()}
    assert listed == {page.name for page in PAGES[1:]}
    assert config["theme"]["font"] is False
    assert "://" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert not re.search(r"<(script|link|img|iframe)|!\[[^\]]*\]\(http", page.read_text(encoding="utf-8"))

"""``fit.yaml`` gives its run again: every flag of every method goes there and back."""

import dataclasses
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import pytest
import yaml

from support import vlprompt
from vlprompt.cli.config_file import config_text, expand_config
from vlprompt.cli.fit import FitOptions, _parse
from vlprompt.methods import all_methods, get_method

NOT_OF_THE_RUN = ("json", "lengths", "track", "force", "plan")
"""They decide no numbers; lengths become settings."""
ODD = "-odd: 'é' # \"no\" {}"


def other(hint: Any, value: Any) -> Any:
    """A value of a type that is not the default."""
    if typing.get_origin(hint) is Literal:
        return next(choice for choice in typing.get_args(hint) if choice != value)
    if typing.get_origin(hint) in (typing.Union, UnionType):
        kind = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        return other(kind, kind(1)) if value is None and kind is not Path else None if value else Path("a b")
    if typing.get_origin(hint) is tuple:
        return () if value else (1, 0, 2) if typing.get_args(hint)[0] is int else ("two words", "{}")
    if hint is bool:
        return not value
    if hint is str:
        return "" if value else ODD
    return value + 1 if hint is int else value / 3 or 0.25 if hint is float else Path("another place")


def changed(instance: Any, **kept: Any) -> Any:
    """Another value for every field."""
    hints = typing.get_type_hints(type(instance))
    values = {f.name: other(hints[f.name], getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    return values | kept


def there_and_back(options: FitOptions, settings: Any, folder: Path) -> tuple[FitOptions, Any]:
    (folder / "fit.yaml").write_text(config_text(options, dataclasses.asdict(settings)), encoding="utf-8")
    return _parse(expand_config(["--config", str(folder / "fit.yaml")]))


@pytest.mark.parametrize("method", [*all_methods(), "maple+atprompt", "dpl+kgcoop"])
def test_every_setting_comes_back(method, tmp_path):
    kind = get_method(method, files=True)  # as the command takes it
    usual = kind.settings_for(16)
    options = FitOptions(data="photos", out=Path("out"), method=method)
    assert there_and_back(options, usual, tmp_path) == (options, usual)
    for name, value in changed(usual).items():
        try:
            settings = dataclasses.replace(usual, **{name: value})
        except Exception:  # a value that this setting refuses
            continue
        assert there_and_back(options, settings, tmp_path) == (options, settings), name


def test_every_option_comes_back(tmp_path):
    options = FitOptions(data="photos", out=Path("out"))
    of_the_run = changed(
        options, data="my photos", method="vpt", preset="shallow", templates=("a {}", "{} - b")
    )
    for name in NOT_OF_THE_RUN:
        del of_the_run[name]
    odd = FitOptions(**of_the_run)
    assert not [
        f.name
        for f in dataclasses.fields(odd)
        if f.name not in NOT_OF_THE_RUN and getattr(odd, f.name) == getattr(options, f.name)
    ]
    settings = get_method("vpt").settings_for(None, **get_method("vpt").preset("shallow"))
    assert there_and_back(odd, settings, tmp_path) == (odd, settings)


def test_a_run_from_its_config_has_the_same_prompts(photos, tmp_path):
    words = ["--shots", 2, "--ctx-init", "", "--n-ctx", 3, "--epochs", 2, "--seed", 7, "--augment", "gentle"]
    assert vlprompt("fit", photos, "--out", tmp_path / "one", *words, "--clip-grad", "None") == 0
    assert vlprompt("fit", "--config", tmp_path / "one" / "fit.yaml", "--out", tmp_path / "two") == 0
    one, two = (yaml.safe_load((tmp_path / name / "fit.yaml").read_text()) for name in ("one", "two"))
    assert one | {"out": ""} == two | {"out": ""}
    prompts = [(tmp_path / name / "prompts.safetensors").read_bytes() for name in ("one", "two")]
    assert prompts[0] == prompts[1]

"""The golden cases: every method against its authors' released code."""

import json
import shutil

import pytest

import parity
from conftest import GOLDEN


@pytest.mark.parametrize("case", [*parity.CASES, "fewshot"])
def test_case(case):
    checks = list(parity.checks_of(GOLDEN, case))
    assert checks
    for quantity, ours, theirs, tolerance in checks:
        assert parity.error(ours, theirs) <= tolerance, quantity


def test_the_command_passes_and_requires(tmp_path, capsys):
    assert parity.main([str(GOLDEN), "--require", ",".join([*parity.CASES, "fewshot"])]) == 0
    shutil.copytree(GOLDEN / "tiny-clip", tmp_path / "tiny-clip")
    for file in GOLDEN.glob("zeroshot.*"):
        shutil.copy(file, tmp_path)
    assert parity.main([str(tmp_path), "--require", "zeroshot"]) == 0
    assert parity.main([str(tmp_path), "--require", "no_such_case"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_the_command_fails_on_other_numbers(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    shutil.copytree(GOLDEN / "tiny-clip", tmp_path / "tiny-clip")
    tensors = load_file(GOLDEN / "coop_generic.safetensors")
    tensors["logits"] = tensors["logits"] * (1 + 2e-5)
    save_file(tensors, tmp_path / "coop_generic.safetensors")
    shutil.copy(GOLDEN / "coop_generic.json", tmp_path)
    tensors = load_file(GOLDEN / "zeroshot.safetensors")
    save_file(tensors, tmp_path / "a_method_of_tomorrow.safetensors")
    (tmp_path / "a_method_of_tomorrow.json").write_text(json.dumps({"classes": []}))
    assert parity.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 failed: coop_generic" in out
    assert "a_method_of_tomorrow not implemented" in " ".join(out.split())
    assert parity.main([str(tmp_path), "--require", "a_method_of_tomorrow"]) == 1

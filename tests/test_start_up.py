"""What is imported before there is work to do; how long that takes is measured by benchmarks/startup.py."""

import json
import subprocess
import sys

import numpy as np
from PIL import Image

from vlprompt import PromptClassifier
from vlprompt.cli.main import COMMANDS

HEAVY = ("torch", "transformers", "sklearn", "scipy", "accelerate", "kornia", "matplotlib", "huggingface_hub")
WITH_TORCH = ("fit", "distill", "search")
"""Their flags are the settings of a method, which stand in its file beside its parameters."""
PROGRAM = """
import json, sys
def heavy():
    return [name for name in {heavy} if name in sys.modules]
import vlprompt
vlprompt.UserError, vlprompt.__version__
found = {{"import vlprompt": heavy()}}
from vlprompt.cli.main import main
for words in {lines}:
    try:
        main(words)
    except SystemExit:
        pass
    found[" ".join(words)] = heavy()
print(json.dumps(found), file=sys.stderr)
"""


def imported(*lines: list[str]) -> dict[str, list[str]]:
    """The heavy packages that a process has imported after each of some command lines."""
    program = PROGRAM.format(heavy=HEAVY, lines=list(lines))
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(process.stderr.splitlines()[-1])


def test_the_package_and_help_import_nothing_heavy():
    light = [[command, "--help"] for command in COMMANDS if command not in WITH_TORCH]
    found = imported(["--help"], *light)
    assert len(found) == len(light) + 2 and not any(found.values()), found


def test_help_with_a_method_s_settings_imports_torch_alone():
    found = imported(*([command, "--help"] for command in WITH_TORCH))
    assert all(found[f"{command} --help"] == ["torch"] for command in WITH_TORCH), found


def test_predict_imports_neither_scikit_learn_nor_what_only_training_needs(tmp_path):
    pixels = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    PromptClassifier("zeroshot").fit(pixels, ["cat", "dog"] * 2).save(tmp_path / "classifier")
    Image.fromarray(pixels[0]).save(tmp_path / "picture.png")
    line = ["predict", f"{tmp_path}/classifier", f"{tmp_path}/picture.png"]
    (_, found) = imported(line).values()
    assert "torch" in found and not {"sklearn", "kornia", "matplotlib"} & set(found)

"""One model trained by two processes: the same as by one.

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 tests/test_processes.py OUT

writes what each process ends with into OUT (``accelerate launch`` does the same on GPUs; for processes
on the CPU it wants MPI). All is in float64: what is left is the order in which a
batch's gradients are summed, about 1e-16 a step; a wrong share of the batch would show at 1e-6.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlprompt import PromptClassifier
from vlprompt.engine.backbones.load import load_backbone
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods import get_method
from vlprompt.training.imageset import ImageSet
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions

CLASSES, IMAGES = ("circle", "square", "red star"), 11
SHORT = {"epochs": 2, "batch_size": 5}  # shared out as 3 and 2
WORDLESS = {"ctx_init": "", "n_ctx": 3}  # contexts from words are float32
METHODS = {
    "coop": SHORT,
    "prograd": SHORT | {"n_ctx": 3, "lr": 0.5},  # far enough for gradients in conflict
    "promptsrc": SHORT | WORDLESS | {"gpa_mean": 1.0},
    "dpl": SHORT | {"search_epochs": 2, "text_max": 2, "vision_max": 2},
    "genpt": SHORT | WORDLESS,  # draws in its loss
    "cocoop": SHORT | WORDLESS | {"batch_size": 1},  # too few to share out
}


def split(seed: int, spoilt: int | None = None) -> ImageSet:
    """Random images, drawn anew at each call; one of them not a number on demand."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randn(IMAGES, 3, 32, 32, generator=draw)
    if spoilt is not None:
        pixels[spoilt] = torch.nan

    def images(positions: torch.Tensor, part: slice) -> torch.Tensor:
        return (pixels[positions] + 0.1 * torch.randn(len(positions), 3, 32, 32))[part]

    return ImageSet(images, torch.arange(IMAGES) % len(CLASSES), random=True)


def train(method: str, spoilt: int | None = None) -> dict:
    """What a method ends with: parameters and the losses of all epochs."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        kind = get_method(method)
        encoder = Encoder(load_backbone("toy", dtype=torch.float64))
        fitted = kind(encoder, CLASSES, kind.Settings(**METHODS[method]))
        if method == "genpt":
            fitted.see(torch.randn(IMAGES, encoder.backbone.joint_width), split(1).labels)
        options = TrainOptions(seed=1, device="cpu", clip_grad=1.0)
        history = fit(fitted, {"train": split(1, spoilt), "val": split(2)}, options, show=False)
    finally:
        torch.set_default_dtype(torch.float32)
    losses = [[value for key, value in record.items() if "loss" in key] for record in history]
    return {"parameters": dict(fitted.named_parameters()), "losses": torch.tensor(losses[-2:]).double()}


def search() -> dict:
    """Alphas and prompts that a search with drawn lengths ends with."""
    torch.manual_seed(3)
    kind = get_method("dpl")
    settings = kind.Settings(**METHODS["dpl"] | {"search": "alphas"})
    supernet = kind(Encoder(load_backbone("toy")), CLASSES, settings).stages()[0].method
    before = supernet.text_alphas.detach().clone()
    fit(supernet, {"train": split(1), "val": split(2)}, TrainOptions(seed=1, device="cpu"), show=False)
    return dict(supernet.named_parameters()) | {"before": before}


def main(out: Path) -> None:
    """What one of the processes does."""
    done: dict = {method: train(method) for method in METHODS} | {"search": search()}
    try:
        train("coop", spoilt=4)
    except UserError as error:
        done["problem"] = str(error)
    torch.save(done, out / f"{os.environ['RANK']}.pt")


def launch(*words: object) -> str:
    """What two processes print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--local_addr"]
    command += ["127.0.0.1", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0", *map(str, words)]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """What two processes end with."""
    out = tmp_path_factory.mktemp("processes")
    launch(__file__, out)
    return [torch.load(out / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_end_with_what_one_ends_with(both, method):
    alone = train(method)
    for together in both:
        ours = together[method]
        torch.testing.assert_close(ours["losses"], alone["losses"], rtol=1e-10, atol=1e-10)
        for name, value in alone["parameters"].items():
            torch.testing.assert_close(ours["parameters"][name], value, rtol=1e-10, atol=1e-10)


def test_all_processes_draw_the_same_lengths(both):
    first, second = (together["search"] for together in both)
    assert not torch.equal(first["before"], first["text_alphas"])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_all_processes_stop_where_one_has_a_loss_that_is_no_number(both):
    first, second = (together["problem"] for together in both)
    assert "the loss became nan in epoch 1" in first
    assert first == second


def test_the_command_writes_one_classifier(tmp_path):
    settings = ["--method", "dpl", "--fresh", "--epochs", 1, "--batch-size", 32]
    printed = launch(
        "-m", "vlprompt", "fit", "toy:colours", "--out", tmp_path / "tuned", *settings, "--shots", 2
    )
    assert printed.count("classes") == 1
    classifier = PromptClassifier.load(tmp_path / "tuned")
    assert len(classifier.history_) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

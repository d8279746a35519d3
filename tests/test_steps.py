"""What a training step asks of the device: one read, and nothing whose size must be waited for."""

from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from support import NAMES, random_encoder, random_split
from vlprompt.benchmark.workers import gpu_names
from vlprompt.engine.devices import pick_device
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch, Method
from vlprompt.methods.registry import all_methods
from vlprompt.training.imageset import ImageSet
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions

WAITS = {"tolist", "item", "numpy", "cpu", "nonzero", "masked_select", "unique", "__bool__", "__int__"}
WAITS |= {"__float__", "__index__", "repeat_interleave", "argwhere"}
"""Functions for which a processor waits for the device."""


OTHERS = ("zeroshot", "linear", "dpl", "promptkd")
"""Nothing is trained; the search, which is tried below; a teacher is needed."""


class Reads(TorchFunctionMode):
    """Counts them, and indices that are masks.

    What is on the device is in float64 here; a single number of another type is the processor's own: an
    optimiser's count of steps, a draw.
    """

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        masks = [i for i in args[1:] if isinstance(i, torch.Tensor) and i.dtype == torch.bool]
        own = isinstance(args[0], torch.Tensor) and not args[0].ndim and args[0].dtype != torch.float64
        if (name in WAITS and not own) or (name in ("__getitem__", "__setitem__") and masks):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def of_type(split: ImageSet, dtype: torch.dtype) -> ImageSet:
    return replace(split, images=lambda positions: split.images(positions).to(dtype))


def reads(name: str, count: int, dtype=torch.float64, **settings) -> tuple[list[str], int]:
    """What one epoch over some images waits for, and the number of objectives of a step."""
    encoder, kind = random_encoder(dtype), get_method(name)
    torch.manual_seed(0)
    method = kind(encoder, NAMES, kind.Settings(**settings), ("a {}",))
    splits = {"train": of_type(random_split(count), dtype), "val": of_type(random_split(count, 1), dtype)}
    if type(method).see is not Method.see:
        method.see(encoder.encode_image(splits["train"].images(torch.arange(count))), splits["train"].labels)
    with Reads() as mode:
        fit(method.to(dtype), splits, TrainOptions(device="cpu", precision="no"), show=False)
    return mode.found, max(len(stage.method.objectives()) for stage in method.stages())


@pytest.mark.parametrize("name", [n for n in all_methods() if n not in OTHERS])
def test_a_step_reads_once(name):
    known = get_method(name).Settings.__dataclass_fields__
    small = {"epochs": 1, "batch_size": 3, "ctx_init": "", "n_ctx": 2, "finetune": True}
    settings = {key: value for key, value in small.items() if key in known}
    (few, each), (many, _) = reads(name, 6, **settings), reads(name, 12, **settings)
    assert len(many) - len(few) == 2 * each  # of two steps more
    assert many.count("tolist") - few.count("tolist") == 2 * each


def test_a_step_of_the_search_reads_once_an_objective():
    settings = get_method("dpl").presets["paper"] | {"epochs": 1, "search_epochs": 1, "batch_size": 3}
    (few, _), (many, _) = (reads("dpl", count, torch.float32, **settings) for count in (6, 12))
    assert many.count("tolist") - few.count("tolist") == len(many) - len(few) == 2 * (2 + 1)


def test_a_step_that_closes_no_token_reads_once():
    settings = {"epochs": 2, "batch_size": 3, "budget": 1.0}  # all may stay
    (few, _), (many, _) = (reads("dpl", count, **settings) for count in (6, 12))
    assert many.count("tolist") - few.count("tolist") == len(many) - len(few) == 2 * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_cuda_is_the_process_s_own_card(monkeypatch):
    last = torch.cuda.device_count() - 1
    monkeypatch.setenv("LOCAL_RANK", str(last))
    assert pick_device("cuda") == pick_device("auto") == torch.device("cuda", last)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize("name", ["coop", "maple", "genpt"])
def test_a_step_waits_for_nothing_on_a_card(name):
    encoder, kind = random_encoder(torch.float32), get_method(name)
    encoder.backbone.model.cuda()
    method = kind(encoder, NAMES, kind.Settings(epochs=1, batch_size=3), ("a {}",)).cuda()
    batch = Batch(torch.randn(3, 3, 32, 32, device="cuda"), torch.arange(3, device="cuda"))
    method.loss(batch)  # plans are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        method.loss(batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["0", "1"]), ("3, 5", ["3", "5"]), ("GPU-8f2e,GPU-11aa", ["GPU-8f2e", "GPU-11aa"])],
)
def test_workers_take_the_cards_that_are_visible(visible, names):
    assert gpu_names(2, visible) == names

"""The training loop: schedule, seeds, checkpoints, kills, precision, and that the backbone is frozen."""

import json
import math
import re
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import GOLDEN
from support import random_encoder, random_split, same_bits, start, vlprompt, write_photos
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.methods.dpl.gates import Gates
from vlprompt.training.imageset import ImageSet
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions, learning_rates
from vlprompt.training.processes import Processes
from vlprompt.training.stages import StageRun

NAMES = ("cat", "school_bus", "sunflower")
LR = load_file(GOLDEN / "coop_steps.safetensors")


def train(name="coop", options=None, checkpoints=None, splits=None, encoder=None, on_epoch=None, **settings):
    """A method trained on random pixels with a random CLIP; its history and its state."""
    kind = get_method(name)
    options = options or TrainOptions(device="cpu")
    torch.manual_seed(options.seed)
    encoder = encoder or random_encoder(torch.float32)
    settings = {"epochs": 3, "batch_size": 4} | settings
    method = kind(encoder, NAMES, kind.Settings(**settings))
    if splits is None:
        splits = {"train": random_split()} | ({"val": random_split(6, seed=1)} if name == "dpl" else {})
    history = fit(method, splits, options, checkpoints, show=False, on_epoch=on_epoch)
    return method, history, {k: v.clone() for k, v in method.state_dict().items()}


# Schedule and seeds.


@pytest.mark.parametrize("key", [k for k in LR if k.startswith("lr_")])
def test_learning_rates_are_those_of_the_field(key):
    base, epochs = key.removeprefix("lr_").split("_")
    ours = torch.tensor(learning_rates(float(base), int(epochs)), dtype=torch.float64)
    torch.testing.assert_close(ours, LR[key].double(), rtol=0, atol=1e-15)


def test_the_schedule_is_what_the_optimizer_gets():
    _, history, _ = train(epochs=4, lr=0.002)
    assert [record["lr"] for record in history] == learning_rates(0.002, 4)
    assert learning_rates(0.002, 0) == []


def test_alphas_keep_their_learning_rate_while_prompts_warm_up():
    """Adam's first step is as long as its learning rate, whatever the gradient."""
    dpl = get_method("dpl")
    settings = dpl.Settings(**dpl.preset("paper"), epochs=1, search_epochs=1, batch_size=9)
    supernet = dpl(random_encoder(torch.float32), NAMES, settings).stages()[0].method
    before = {k: v.clone() for k, v in supernet.named_parameters()}
    splits = {"train": random_split(), "val": random_split(seed=1)}
    fit(supernet, splits, TrainOptions(device="cpu"), show=False)
    moved = {k: float((v - before[k]).detach().abs().max()) for k, v in supernet.named_parameters()}
    for name in ("text_alphas", "vision_alphas"):
        assert math.isclose(moved.pop(name), 0.0035, rel_tol=0.01)
    assert all(0 < length < 1e-4 for length in moved.values())


@pytest.mark.parametrize("name", ["coop", "dpl"])
def test_a_seed_gives_the_same_bits_and_another_seed_others(name):
    settings = {"search_epochs": 2} if name == "dpl" else {}
    first = train(name, **settings)[2]
    assert same_bits(first, train(name, **settings)[2])
    other = train(name, TrainOptions(seed=2, device="cpu"), **settings)[2]
    assert not same_bits(first, other)


def test_the_seed_orders_the_images():
    def order(seed):
        drawn, split = [], random_split()
        images = lambda positions: (drawn.append(positions.tolist()), split.images(positions))[1]  # noqa: E731
        train("coop", TrainOptions(seed=seed, device="cpu"), splits={"train": ImageSet(images, split.labels)})
        return drawn

    assert order(1) == order(1) != order(2)
    epochs = [order(1)[i : i + 2] for i in (0, 2, 4)]
    assert epochs[0] != epochs[1] and all(len({i for batch in e for i in batch}) == 8 for e in epochs)


# Kill and resume.


def checkpoint(path) -> list:
    """The history in a checkpoint; empty where there is none."""
    if not path.exists():
        return []
    with safe_open(path, "pt") as opened:
        return json.loads(opened.metadata()["history"])


def kill_when(process, path) -> int:
    """Kill the process, kill -9, as soon as a checkpoint is there; the epochs that it holds."""
    limit = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close(), process.stderr.close()
    return len(checkpoint(path))


def test_killed_in_search_and_in_training_it_ends_with_the_same_bits(tmp_path):
    photos = write_photos(tmp_path / "photos")
    flags = ["--shots", 2, "--method", "dpl", "--fresh", "--epochs", 6]
    flags += ["--text-max", 2, "--vision-max", 2]  # the search closes gates, then fresh prompts are trained

    def words(out):
        return ["fit", photos, "--out", tmp_path / out, *flags]

    saved = tmp_path / "cut.part" / "checkpoints"
    done = kill_when(start(*words("cut")), saved / "search.safetensors")
    assert 1 <= done < 6, "the kill came too late to test anything"
    assert not (tmp_path / "cut").exists()
    done = kill_when(start(*words("cut")), saved / "train.safetensors")
    assert 1 <= done < 6, "the kill came too late to test anything"
    searched = checkpoint(saved / "search.safetensors")
    assert [record["epoch"] for record in searched] == list(range(6))
    for out in ("cut", "whole"):  # in processes of their own: earlier tests may have set this one's threads
        ended = start(*words(out))
        ended.communicate(timeout=240)
        assert ended.returncode == 0
    for name in ("prompts.safetensors", "lengths.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    drop = lambda records: [r | {"seconds": 0} for r in records]  # noqa: E731
    histories = [json.loads((tmp_path / out / "history.json").read_text()) for out in ("cut", "whole")]
    assert drop(histories[0]) == drop(histories[1]) and len(histories[0]) == 12
    assert not list(tmp_path.glob("*.part"))


RESUMED = ["coop", "promptsrc", "cocoop", "vpt", "prograd", "tcp", "clip_lora", "mma", "mmrl", "coprompt"]
RESUMED += ["clip_adapter", "taskres", "atprompt", "maple+atprompt"]


@pytest.mark.parametrize("name", RESUMED)
def test_cut_off_in_the_middle_of_an_epoch_it_ends_with_the_same_bits(name, tmp_path):
    whole = train(name, epochs=4)[2]
    twice = name == "coprompt"  # it sees two views of each image
    left = [13 if twice else 7]  # batches until the power fails, in the middle of an epoch of two

    def images(positions):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return split.images(positions)

    split = random_split()
    with pytest.raises(KeyboardInterrupt):
        train(name, checkpoints=tmp_path, splits={"train": ImageSet(images, split.labels)}, epochs=4)
    assert len(checkpoint(tmp_path / "train.safetensors")) == 3
    assert not list(tmp_path.glob("*.part"))
    assert same_bits(whole, train(name, checkpoints=tmp_path, epochs=4)[2])


def test_a_resumed_run_keeps_its_chunks(tmp_path):
    """Whatever memory is free when it goes on: the chunks decide the last bits."""

    def stop(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    def run(memory, **more):
        encoder = random_encoder(torch.float32)
        encoder.memory = memory
        return train(encoder=encoder, splits={"train": random_split()}, epochs=6, n_ctx=4, lr=0.5, **more)

    chunked, together = run(1)[2], run(1 << 40)[2]
    assert not same_bits(chunked, together), "the chunks do not matter here and nothing is tested"
    with pytest.raises(KeyboardInterrupt):
        run(1, checkpoints=tmp_path, on_epoch=stop)
    method, _, resumed = run(1 << 40, checkpoints=tmp_path)
    assert same_bits(resumed, chunked) and method.encoder.memory == 1


def test_the_memory_is_looked_at_once():
    encoder = random_encoder(torch.float32)
    assert encoder.memory is None
    train(encoder=encoder, epochs=1)
    assert encoder.memory


OTHERS = {
    "seed": {"options": TrainOptions(seed=2, device="cpu")},
    "precision": {"options": TrainOptions(precision="bf16", device="cpu")},
    "clip_grad": {"options": TrainOptions(clip_grad=1.0, device="cpu")},
    "lr": {"lr": 0.1},
    "method": {"name": "vpt"},
    "images": {"splits": {"train": random_split(12)}},
    "labels": {
        "splits": {"train": ImageSet(random_split().images, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]))}
    },
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_a_checkpoint_of_another_run_is_refused(change, tmp_path):
    split = {"train": random_split()}
    train(checkpoints=tmp_path, splits=split)
    before = (tmp_path / "train.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"train\.safetensors' belongs to a run with other .*delete it") as e:
        train(**{"checkpoints": tmp_path, "splits": split} | change)
    assert "\n" not in str(e.value)
    assert (tmp_path / "train.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path):
    split = {"train": random_split()}
    train(checkpoints=tmp_path, splits=split)
    encoder = random_encoder(torch.float32)
    encoder.backbone.digest = "another"
    with pytest.raises(UserError, match="belongs to a run with other"):
        train(checkpoints=tmp_path, splits=split, encoder=encoder)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "no metadata"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    train(checkpoints=tmp_path)
    file = tmp_path / "train.safetensors"
    content = file.read_bytes()
    if damage == "no metadata":
        from safetensors.torch import save_file

        save_file({"method.ctx": torch.zeros(2)}, file)
    else:
        file.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"{}"}[damage])
    with pytest.raises(UserError, match=r"train\.safetensors' (is damaged|belongs to).*delete it") as error:
        train(checkpoints=tmp_path)
    assert "\n" not in str(error.value)


def test_a_finished_checkpoint_trains_no_more(tmp_path):
    state = train(checkpoints=tmp_path)[2]

    def images(positions):
        raise AssertionError("no image is needed any more")

    again = train(checkpoints=tmp_path, splits={"train": ImageSet(images, random_split().labels)})[2]
    assert same_bits(state, again)


# What can go wrong.


def test_a_loss_that_is_not_finite_stops_with_one_line_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos")
    words = ["fit", photos, "--out", tmp_path / "out", "--method", "coop", "--shots", 2, "--epochs", 6]
    assert vlprompt(*words, "--lr", 100, "--weight-decay", 100, "--batch-size", 1) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    epoch = int(re.search(r"the loss became nan in epoch (\d), step", error)[1])
    assert epoch > 1 and "lower the learning rate (now 100)" in error
    file = tmp_path / "out.part" / "checkpoints" / "train.safetensors"
    assert str(file) in error
    assert len(checkpoint(file)) == epoch - 1 and all(t.isfinite().all() for t in load_file(file).values())
    assert not (tmp_path / "out").exists()


def test_prompts_that_the_last_step_breaks_are_not_kept(tmp_path, monkeypatch):
    """One step an epoch: no loss is computed any more that would show it."""
    train("coop", checkpoints=tmp_path / "fine", epochs=2, batch_size=9)
    monkeypatch.setattr(Method, "learning_rate", lambda *_: 3e38)  # more than any setting may be
    with pytest.raises(UserError, match=r"loss became nan in epoch 2, step 1 .*lower the learning rate"):
        train("coop", checkpoints=tmp_path / "broken", epochs=2, batch_size=9)
    assert len(checkpoint(tmp_path / "broken" / "train.safetensors")) == 1


def test_no_validation_images_where_they_are_needed():
    with pytest.raises(UserError, match=r"search stage .*validation images and there are none"):
        train("dpl", splits={"train": random_split()}, search="alphas", search_epochs=1)


def test_clip_grad_bounds_the_step_and_is_off_by_default():
    assert TrainOptions().clip_grad is None
    settings = {"epochs": 2, "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "batch_size": 9}

    def last_step(clip):  # one step an epoch, the second with the full learning rate
        steps = []
        for epochs in (1, 2):
            options = TrainOptions(clip_grad=clip, device="cpu")
            steps.append(train("coop", options, **settings | {"epochs": epochs})[2]["ctx"])
        return float((steps[1] - steps[0]).norm())

    free = last_step(None)
    assert math.isclose(last_step(free / 10), free / 10, rel_tol=1e-3)
    assert math.isclose(last_step(free * 10), free, rel_tol=1e-6)


@pytest.mark.parametrize("wrong", [{"clip_grad": 0.0}, {"clip_grad": -1.0}, {"seed": -1}, {"seed": 2**40}])
def test_options_that_make_no_sense_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=name):
        TrainOptions(**wrong)


def test_a_stage_knows_nothing_of_gradients_that_an_earlier_one_left_infinite():
    """As float16 leaves them when its scale is too large in the last step; here with the scaler alone."""
    options = TrainOptions(clip_grad=1.0, device="cpu")
    processes = Processes(options, torch.device("cpu"))
    processes.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    settings = get_method("dpl").Settings(epochs=1, batch_size=9, fresh=True)
    method = get_method("dpl")(random_encoder(torch.float32), NAMES, settings)
    scales = []
    for stage in method.stages():
        stage.enter()
        before = [p.detach().clone() for p in stage.method.text_prompts]
        StageRun(stage, {"train": random_split()}, options, 1, processes, None, False).run()
        moved = [not torch.equal(a, b) for a, b in zip(before, stage.method.text_prompts, strict=True)]
        scales.append(processes.scaler.get_scale())
        assert all(moved) == (stage.name == "train"), "a step with infinite gradients is left out, no other"
        stage.method.finish()
        processes.scaler.update(2.0**10)
    assert scales == [math.inf, 2.0**10]


def test_a_step_that_overflows_says_nothing_of_any_tokens_worth():
    gates = Gates(torch.tensor([2, 2]), 2)
    gates.probe.grad = torch.tensor([[torch.inf, 1.0], [0.0, 1.0]])
    gates.after_step(3)
    gates.probe.grad = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    gates.after_step(3)
    torch.testing.assert_close(gates.worth, 0.05 * torch.tensor([[3.0, 1.0], [0.0, 0.0]]))


def test_the_callers_own_accelerator_stays_as_it_was():
    own = Accelerator(mixed_precision="bf16", cpu=True)
    train(epochs=1)
    assert own.mixed_precision == "bf16" and own.num_processes == 1
    train(options=TrainOptions(precision="bf16", device="cpu"), epochs=1)
    assert Accelerator().mixed_precision == "bf16"


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="precision fp16 does not work on 'cpu'"):
        train(options=TrainOptions(precision="fp16", device="cpu"))


@pytest.mark.parametrize("name", ["coop", "vpt", "dpl"])
def test_bf16_stays_near_float32(name):
    settings = {"epochs": 6, "lr": 0.01} | ({"search_epochs": 2} if name == "dpl" else {})
    exact, exact_history, _ = train(name, **settings)
    rough, rough_history, state = train(name, TrainOptions(precision="bf16", device="cpu"), **settings)
    assert all(t.dtype == torch.float32 for k, t in state.items() if t.is_floating_point())
    for a, b in zip(exact_history, rough_history, strict=True):
        assert a["loss"] != b["loss"] and abs(a["loss"] - b["loss"]) < 0.03 * a["loss"]
    pixels = random_split().images(torch.arange(9))
    with torch.no_grad():
        difference = exact(pixels).softmax(-1) - rough(pixels).softmax(-1)
    assert difference.abs().max() < 0.03


def test_nothing_of_the_backbone_changes_and_none_of_it_has_a_gradient():
    for name in ("coop", "promptsrc", "dpl", "maple", "cocoop"):
        encoder = random_encoder(torch.float32)
        before = {k: v.clone() for k, v in encoder.backbone.model.state_dict().items()}
        settings = {"search_epochs": 1} if name == "dpl" else {}
        train(name, encoder=encoder, epochs=2, lr=0.1, **settings)
        assert same_bits(before, encoder.backbone.model.state_dict())
        parameters = list(encoder.backbone.model.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in parameters)


def test_on_epoch_sees_every_record_and_may_stop(tmp_path):
    photos = write_photos(tmp_path / "photos")
    paths = sorted(photos.rglob("*.png"))
    seen = []
    classifier = PromptClassifier("coop", settings={"epochs": 3})
    classifier.fit(paths, [p.parent.name for p in paths], on_epoch=seen.append)
    assert seen == classifier.history_ and len(seen) == 3

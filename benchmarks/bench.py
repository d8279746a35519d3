"""Ours against the plain way, and against the floor, on a randomly initialised ViT-B/16 CLIP.

    python benchmarks/bench.py [--quick] [--out benchmarks/results.json]

Both ways run in one process, in turn; times are medians of a forward and a backward pass. Peak
memory is that of a process of its own for each way. The floor is the step's unavoidable
floating-point operations over the matrix-multiply rate that the same run measures: linear layers and
attention products over the tokens that exist, forward and for the gradient of the hidden states, with
only the tokens that are read in the last layer's second half. Prints a Markdown table, writes JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import plain
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.backbones.siglip import SiglipBackbone
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Plan, Row
from vlprompt.engine.prompt import KeyValue
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch, Method
from vlprompt.methods.dpl.settings import PAPER
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.templates import template_features

START, END = 49406, 49407
PLAIN_CHUNK = 100
"""Classes that the plain way takes at once where it would not fit into memory (time only)."""


class WordTokenizer:
    """One id a word and a full stop: real enough to give class names of one to six tokens."""

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        rows = []
        for text in texts:
            words = text.replace(".", " .").replace(",", " ,").split()
            rows.append(
                [START, *(1000 + sum(ord(c) * 31**i for i, c in enumerate(w)) % 40000 for w in words), END]
            )
        return {"input_ids": rows}


class NoStart(WordTokenizer):
    """As SigLIP's, which puts nothing before a text and fills it up."""

    pad_token_id = 1

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [row[1:] for row in super().__call__(texts)["input_ids"]]}


def classnames(count: int) -> list[str]:
    """Names of one to six tokens, about as ImageNet's: 2.3 on average."""
    draw = random.Random(0)
    lengths = draw.choices([1, 2, 3, 4, 5, 6], [30, 35, 20, 9, 4, 2], k=count)
    return [" ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(n)) for n in lengths]


def make_encoder(device: str) -> Encoder:
    """A ViT-B/16 CLIP with random weights."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={"bos_token_id": START, "eos_token_id": END},
        vision_config={"patch_size": 16},
    )
    return Encoder(CLIPBackbone(CLIPModel(config).to(device), WordTokenizer()))


@dataclass
class Step:
    """One line of the table: the two ways of computing a step, and its floor in operations."""

    name: str
    ours: Callable[[], Any]
    plain: Callable[[], Any]
    operations: float
    images: int = 0
    plain_share: float = 1.0
    """Part of the plain way that is run, where it takes minutes and consists of equal parts."""


# Floating-point operations.


def layer_operations(
    tokens: float, keys: float, width: int, read: float, backward: bool
) -> tuple[float, float]:
    """Operations of a full layer and of the last one, where only ``read`` tokens go on after the keys.

    Args:
        tokens: positions. keys: mean number of keys that a position sees. read: positions read at the end.
    """
    linear, attention = 2 * width * width, 2 * 2 * width * keys  # per token: one projection; q.k and p.v
    full = tokens * (12 * linear + attention)
    last = tokens * 2 * linear + read * (10 * linear + attention)
    times = 2 if backward else 1
    attention_again = 1 if backward else 0  # its backward has four products to the forward's two
    return (
        times * full + attention_again * tokens * attention,
        times * last + attention_again * read * attention,
    )


def text_operations(
    method: Method | None, rows: Sequence[Row], prompts: int = 0, backward: bool = True, frozen: int = 0
) -> float:
    """Operations of the text branch over the tokens that exist, with ``prompts`` extra keys a layer.

    ``frozen`` is the number of first layers that no gradient reaches.
    """
    pack = Plan.of(rows).pack
    lengths = [(pack.prefix, 1), *((length, count) for count, length in pack.groups)]
    tokens = sum(n * c for n, c in lengths)
    keys = sum(
        c * n * ((pack.prefix if i else 0) + (n + 1) / 2 + prompts) for i, (n, c) in enumerate(lengths)
    )
    below, _ = layer_operations(tokens, keys / tokens, 512, len(set(rows)), False)
    full, last = layer_operations(tokens, keys / tokens, 512, len(set(rows)), backward)
    return frozen * below + (11 - frozen) * full + last


def vision_operations(
    images: int, extra_tokens: int = 0, prompts: int = 0, backward: bool = True, frozen: int = 0
) -> float:
    """Operations of ViT-B/16's vision branch; ``frozen`` as in :func:`text_operations`."""
    tokens = 197 + extra_tokens
    below, _ = layer_operations(tokens, tokens + prompts, 768, 1, False)
    full, last = layer_operations(tokens, tokens + prompts, 768, 1, backward)
    patches = 196 * 2 * 768 * 768
    return images * (frozen * below + (11 - frozen) * full + last + patches)


def matmul_rate(device: str) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a, b = (torch.randn(2048, 2048, device=device) for _ in range(2))
    times = [timed(lambda: a @ b, device) for _ in range(9)]
    return 2 * 2048**3 / median(times)


# Steps.


def step(method: Method, batch: Batch) -> Callable[[], None]:
    """A forward and a backward pass of ours."""

    def run() -> None:
        method.zero_grad()
        method.backward(method.loss(batch), lambda loss: loss.backward())

    return run


def plain_step(
    method: Method,
    ids: Tensor,
    batch: Batch,
    text: dict[str, Any],
    vision: dict[str, Any] | None,
    extra: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Callable[[], None]:
    """The same step the plain way; classes in chunks where all of them do not fit into memory."""
    model = method.encoder.backbone.model

    def run() -> None:
        method.zero_grad()
        images = batch.images if vision is None else plain.image_features(model, batch.images, **vision)
        parts = ids.split(PLAIN_CHUNK if len(ids) > 400 else len(ids))
        if len(parts) == 1:
            classes = plain.text_features(model, ids, **text)
            logits = 100 * images @ classes.T
            loss = F.cross_entropy(logits, batch.labels)
            (loss if extra is None else loss + extra(images, classes)).backward()
            return
        for index, part in enumerate(parts):  # the gradient of the class features is made up: time only
            classes = plain.text_features(model, part, **text)
            loss = (images.detach() @ classes.T).square().mean()
            if vision is not None and index == 0:
                loss = loss + images.sum()
            loss.backward()
            del classes, loss  # or two chunks would be in memory

    return run


def padded(rows: Sequence[Row], device: str, length: int = 77, pad: int = 0) -> Tensor:
    """Sequences as the incumbents pad them: (K, length)."""
    filled = [[max(i, 0) for i in row] + [pad] * (length - len(row)) for row in rows]
    return torch.tensor(filled, device=device)


def candidates(prompts: Sequence[KeyValue]) -> list[plain.Candidates]:
    """A layer's prompts as the plain way takes them."""
    result: list[plain.Candidates] = []
    for prompt in prompts:
        if prompt.weights is None:
            result.append(((prompt.tokens,), None))  # type: ignore[arg-type]
        else:
            result.append(([None, *prompt.tokens.split(prompt.lengths)], prompt.weights))
    return result


def siglip_row(k: int, device: str) -> Step:
    """CoOp on a SigLIP B/16 of random weights: 16 of 64 positions are context; cached image features."""
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config={"vocab_size": END + 1, "pad_token_id": 1})).to(device)
    encoder = Encoder(SiglipBackbone(model, NoStart()))
    method = get_method("coop")(encoder, classnames(k))
    images = F.normalize(torch.randn(32, 768, device=device), dim=-1)
    batch = Batch(images, torch.arange(32, device=device) % k)
    length = encoder.backbone.max_positions
    ids = padded(method.sequences, device, length, pad=1)

    def plain_way() -> None:
        method.zero_grad()
        classes = plain.siglip_text_features(model, ids, method.ctx)
        F.cross_entropy(encoder.logit_scale * images @ classes.T, batch.labels).backward()

    full, last = layer_operations(k * length, length, 768, k, True)
    return Step(f"CoOp on SigLIP, K = {k}", step(method, batch), plain_way, 11 * full + last)


def coop_row(encoder: Encoder, k: int, device: str) -> Step:
    """CoOp: 16 context tokens, cached image features, batch 32."""
    method = get_method("coop")(encoder, classnames(k))
    images = F.normalize(torch.randn(32, 512, device=device), dim=-1)
    batch = Batch(images, torch.arange(32, device=device) % k)
    ids = padded(method.sequences, device)
    return Step(
        f"CoOp, K = {k}",
        step(method, batch),
        plain_step(method, ids, batch, {"context": method.ctx}, None),
        text_operations(method, method.sequences),
    )


def pixels(count: int, k: int, device: str) -> Batch:
    """Random images and labels."""
    return Batch(torch.randn(count, 3, 224, 224, device=device), torch.arange(count, device=device) % k)


def cocoop_row(encoder: Encoder, k: int, device: str) -> Step:
    """CoCoOp: every image has a context of its own; batch 8, cached image features."""
    method = get_method("cocoop")(encoder, classnames(k))
    batch = Batch(F.normalize(torch.randn(8, 512, device=device), dim=-1), torch.arange(8, device=device) % k)
    ids = padded(method.sequences, device)
    model = encoder.backbone.model

    def plain_way() -> None:
        method.zero_grad()
        for image, label in zip(batch.images, batch.labels, strict=True):  # the release's loop over images
            context = method.ctx + method.meta_net(image)
            classes = plain.text_features(model, ids, context)
            F.cross_entropy(100 * (image @ classes.T)[None], label[None]).backward()

    return Step(
        f"CoCoOp, K = {k}, batch 8",
        step(method, batch),
        plain_way,
        8 * text_operations(method, method.sequences),
    )


def tcp_row(encoder: Encoder, k: int, device: str) -> Step:
    """TCP: tokens of each class's own from layer 9 on; cached image features, batch 32."""
    method = get_method("tcp")(encoder, classnames(k))
    images = F.normalize(torch.randn(32, 512, device=device), dim=-1)
    batch = Batch(images, torch.arange(32, device=device) % k)
    ids = padded(method.sequences, device)

    def plain_way() -> None:
        text = method.text_prompt()
        assert text is not None

        def extra(images: Tensor, classes: Tensor) -> Tensor:
            return 8 * (1 - (classes * method.knowledge_features).sum(-1).mean())

        plain_step(method, ids, batch, {"context": text.context, "deep": text.deep}, None, extra)()

    name, operations = f"TCP, K = {k}", text_operations(method, method.sequences)
    return Step(name, step(method, batch), plain_way, operations)


DEEP_BATCH = 4
"""Images a step of methods that train through the image branch, the published number of most."""


def deep_row(encoder: Encoder, name: str, k: int, device: str, size: int = DEEP_BATCH) -> Step:
    """Methods with something in the layers of both branches."""
    method = get_method(name)(encoder, classnames(k))
    batch = pixels(size, k, device)
    ids, model = padded(method.sequences, device), encoder.backbone.model

    def plain_way() -> None:
        text, vision = method.text_prompt(), method.vision_prompt()
        assert text is not None and vision is not None
        extra = None
        if name in ("promptsrc", "mmrl"):
            with torch.no_grad():  # the releases run the frozen image branch in every step, and so do we
                frozen = plain.image_features(model, batch.images)

            def extra(images: Tensor, classes: Tensor) -> Tensor:
                return F.l1_loss(classes, method.frozen_classes) + F.l1_loss(images, frozen)

        parts = ("context", "deep", "beside")
        plain_step(
            method,
            ids,
            batch,
            {part: getattr(text, part) for part in parts},
            {part: getattr(vision, part) for part in parts},
            extra,
        )()

    vision = method.vision_prompt()
    assert vision is not None
    tokens = 0 if vision.context is None else len(vision.context)
    operations = text_operations(method, method.sequences, frozen=vision.first)
    operations += vision_operations(size, tokens, frozen=vision.first)
    if name in ("promptsrc", "mmrl"):
        operations += vision_operations(size, backward=False)
    return Step(f"{method.title}, K = {k}, batch {size}", step(method, batch), plain_way, operations)


def dpl_row(encoder: Encoder, stage: str, k: int, device: str) -> Step:
    """DPL's search (candidates 0 to 6 in every layer) and train stage (length 3 everywhere), batch 4."""
    if stage == "search":
        method: Method = Supernet(encoder, classnames(k), Supernet.Settings(**PAPER))
        prompts = 21
    else:
        kind = get_method("dpl")
        method = kind(encoder, classnames(k), kind.Settings(text_lengths=(3,) * 12, vision_lengths=(3,) * 12))
        prompts = 3
    batch = pixels(4, k, device)
    ids = padded(method.sequences, device)

    def plain_way() -> None:
        text, vision = method.text_prompt(), method.vision_prompt()
        assert text is not None and vision is not None
        plain_step(
            method,
            ids,
            batch,
            {"candidates": candidates(text.keys_values)},  # type: ignore[arg-type]
            {"candidates": candidates(vision.keys_values)},  # type: ignore[arg-type]
        )()

    operations = text_operations(method, method.sequences, prompts) + vision_operations(4, 0, prompts)
    return Step(f"DPL {stage}, K = {k}, batch 4", step(method, batch), plain_way, operations)


def zeroshot_row(encoder: Encoder, k: int, templates: int, device: str) -> Step:
    """Class features of frozen CLIP."""
    names = classnames(k)
    texts = [
        "a photo of a {}.",
        *(f"{'one ' * (i % 5)}kind{i} of photo of the {{}}." for i in range(templates - 1)),
    ]
    rows = [encoder.tokenize([t.replace("{}", n) for n in names]) for t in texts]

    some = rows[: max(len(rows) // 10, 1)]

    @torch.no_grad()
    def plain_way() -> None:
        for row in some:
            for part in padded(row, device).split(PLAIN_CHUNK):
                plain.text_features(encoder.backbone.model, part)

    def ours() -> None:
        template_features(Encoder(encoder.backbone), names, texts)  # a fresh encoder has kept nothing

    operations = sum(text_operations(None, r, backward=False) for r in rows)
    name = f"Zero-shot features, K = {k}" + (f", {templates} templates" if templates > 1 else "")
    return Step(name, ours, plain_way, operations, plain_share=len(some) / len(rows))


def predict_row(encoder: Encoder, k: int, device: str) -> Step:
    """Prediction of 32 images by a tuned DPL; the plain way encodes the classes for every batch."""
    kind = get_method("dpl")
    method = kind(encoder, classnames(k), kind.Settings(text_lengths=(3,) * 12, vision_lengths=(3,) * 12))
    batch = pixels(32, k, device)
    ids = padded(method.sequences, device)
    with torch.no_grad():
        predictor = method.predictor()

    @torch.no_grad()
    def ours() -> None:
        predictor(batch.images)

    @torch.no_grad()
    def plain_way() -> None:
        text, vision = method.text_prompt(), method.vision_prompt()
        assert text is not None and vision is not None
        model = encoder.backbone.model
        classes = plain.text_features(model, ids, candidates=candidates(text.keys_values))  # type: ignore[arg-type]
        images = plain.image_features(model, batch.images, candidates=candidates(vision.keys_values))  # type: ignore[arg-type]
        100 * images @ classes.T

    operations = vision_operations(32, 0, 3, backward=False)
    return Step(f"Prediction, K = {k}, 32 images", ours, plain_way, operations, images=32)


ROWS: dict[str, Callable[[Encoder, str], Step]] = {
    **{f"coop{k}": lambda e, d, k=k: coop_row(e, k, d) for k in (10, 100, 397, 1000)},
    "siglip100": lambda _, d: siglip_row(100, d),
    "cocoop100": lambda e, d: cocoop_row(e, 100, d),
    "tcp100": lambda e, d: tcp_row(e, 100, d),
    **{
        f"{name}100": lambda e, d, name=name: deep_row(e, name, 100, d)
        for name in ("maple", "promptsrc", "coprompt", "mmrl", "mma", "clip_lora")
    },
    **{f"search{k}": lambda e, d, k=k: dpl_row(e, "search", k, d) for k in (100, 1000)},
    **{f"train{k}": lambda e, d, k=k: dpl_row(e, "train", k, d) for k in (100, 1000)},
    "zeroshot1000": lambda e, d: zeroshot_row(e, 1000, 1, d),
    "ensemble100": lambda e, d: zeroshot_row(e, 100, 80, d),
    "predict100": lambda e, d: predict_row(e, 100, d),
}
QUICK = ("coop100", "search100")


# Measuring.


def timed(f: Callable[[], Any], device: str) -> float:
    """Seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(row: Step, device: str, repeats: int) -> dict[str, Any]:
    """Medians of both ways, run in turn; the slow way is run once where it takes a minute."""
    row.ours()
    first_plain = timed(row.plain, device)
    few = repeats - 1 if first_plain < 20 else int(first_plain < 60)
    ours, theirs, rates = [], [first_plain], []
    for index in range(max(repeats, 5)):
        rates.append(matmul_rate(device))
        ours.append(timed(row.ours, device))
        if index < few:
            theirs.append(timed(row.plain, device))
    seconds, floor = median(ours), row.operations / median(rates)
    result = {
        "name": row.name,
        "ours_s": seconds,
        "plain_s": median(theirs) / row.plain_share,
        "ratio": median(theirs) / row.plain_share / seconds,
        "floor_s": floor,
        "over_floor": seconds / floor,
        "gflops": median(rates) / 1e9,
    }
    return result | ({"images_per_s": row.images / seconds} if row.images else {})


def peak_memory(key: str, way: str, device: str) -> float | None:
    """Peak memory, in GB, of a process that does one step; ``None`` if it did not get through."""
    command = [sys.executable, __file__, "--child", key, "--way", way, "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def child(key: str, way: str, device: str) -> None:
    """One step in a process of its own; prints its peak memory in GB."""
    row = ROWS[key](make_encoder(device), device)
    getattr(row, way)()
    if device == "cuda":
        print(torch.cuda.max_memory_allocated() / 1e9)
    else:
        print(peak_resident_bytes() / 1e9)


def peak_resident_bytes() -> int:
    """Largest resident memory of this process; ``ru_maxrss`` would count the parent's as well on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| step | ours | plain | ratio | over the floor | memory ours | memory plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        ours, theirs = (f"{m:.2f} GB" if m else "-" for m in (r.get("ours_gb"), r.get("plain_gb")))
        name = r["name"] + (f" ({r['images_per_s']:.0f} images/s)" if "images_per_s" in r else "")
        lines.append(
            f"| {name} | {r['ours_s']:.3f} s | {r['plain_s']:.2f} s | {r['ratio']:.1f}x "
            f"| {r['over_floor']:.2f} | {ours} | {theirs} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the rows, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows, under five minutes on two cores")
    parser.add_argument("--rows", default="", help=f"comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the processes that measure memory"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.way, arguments.device)
        return
    keys = arguments.rows.split(",") if arguments.rows else QUICK if arguments.quick else tuple(ROWS)
    encoder = make_encoder(arguments.device)
    results = []
    for key in keys:
        result = measure(ROWS[key](encoder, arguments.device), arguments.device, arguments.repeats)
        if not arguments.no_memory:
            for way in ("ours", "plain"):
                result[f"{way}_gb"] = peak_memory(key, way, arguments.device)
        print(json.dumps(result), file=sys.stderr, flush=True)
        results.append(result)
    print(table(results))
    device = (
        torch.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    arguments.out.write_text(
        json.dumps({"device": device, "torch": torch.__version__, "rows": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

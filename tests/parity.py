"""Compare every method with its authors' released code, case by case.

    python tests/parity.py tests/golden [--require zeroshot,coop_generic,...]

Prints a row for each case and quantity: relative L2 error and pass or fail. Exits 0 only if nothing
failed and every required case passed. The format of a folder of cases: see its README.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel
from transformers.utils import logging as hf_logging

from vlprompt.data.fewshot import few_shot, subsample
from vlprompt.dataset import Dataset, Item
from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.methods import get_method
from vlprompt.methods.base import Batch, Method
from vlprompt.methods.dpl.alphas import from_alphas
from vlprompt.methods.dpl.settings import PAPER
from vlprompt.methods.dpl.supernet import Supernet
from vlprompt.methods.losses import distillation
from vlprompt.methods.templates import fill
from vlprompt.training.options import learning_rates

OUTPUT, GRADIENT, STEPS = 1e-5, 1e-4, 1e-3

Check = tuple[str, Any, Any, float]
"""Quantity, ours, theirs, tolerance."""


@dataclass
class Case:
    """One golden case: its tensors, its configuration and an encoder that knows its texts."""

    tensors: dict[str, Tensor]
    info: dict[str, Any]
    encoder: Encoder
    templates: list[str]
    words: str

    @property
    def config(self) -> dict[str, Any]:
        return self.info.get("config", {})

    @property
    def classes(self) -> list[str]:
        return self.info["classes"]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def make(self, method: str | type[Method], **settings: Any) -> Method:
        kind = get_method(method) if isinstance(method, str) else method
        return kind(self.encoder, self.classes, kind.Settings(**settings), self.templates)

    def batch(self, prefix: str = "", step: int | None = None) -> Batch:
        at = slice(None) if step is None else step
        other = self.tensors.get("pixel_values_2")
        view = None if other is None else lambda: other
        return Batch(self[f"{prefix}pixel_values"][at], self[f"{prefix}labels"][at], other=view)


class TableTokenizer:
    """The tokenizer of one case: it knows the texts that the case uses, and no others."""

    def __init__(self, table: dict[str, list[int]]):
        self.table = table

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self.table[text] for text in texts]}


def read_case(folder: Path, name: str) -> Case:
    """Read a case; the texts of its token ids follow from its configuration."""
    tensors = load_file(folder / f"{name}.safetensors")
    info = json.loads((folder / f"{name}.json").read_text())
    names = [fill("{}", c) for c in info["classes"]]
    table: dict[str, list[int]] = {}

    def trim(row: Tensor) -> list[int]:
        return row[: int(row.argmax()) + 1].tolist()

    templates = info.get("templates") or [info.get("template", "a photo of a {}.")]
    sources = {"token_ids_ensemble": templates, "token_ids_handcrafted": templates[:1]}
    sources["token_ids_sentences"] = info.get("sentences", [])
    for key, texts in sources.items():
        if key in tensors:
            for template, rows in zip(texts, tensors[key].view(len(texts), len(names), -1), strict=True):
                table |= {fill(template, n): trim(r) for n, r in zip(names, rows, strict=True)}
            head = template.split("{}")[0].strip()
            count = len(head.split())
            table[head] = [*trim(rows[0])[: 1 + count], trim(rows[0])[-1]]
    if "token_ids" not in tensors:
        return make_case(folder, tensors, info, table, templates, "")
    words = info.get("config", {}).get("CTX_INIT", "default") or ""
    if words == "default":  # the configuration does not say it: placeholders are one token, repeated
        first = tensors["token_ids"][0, 1:5].tolist()
        words = "" if len(set(first)) == 1 else "a photo of a"
    n_words = len(words.split()) or info.get("config", {}).get("N_CTX", 4)
    for n, row in zip(names, tensors["token_ids"], strict=True):
        ids = trim(row)
        table.setdefault(fill(templates[0], n), ids)
        if words:
            table[f"{words} {n}."] = ids
            table[words] = [*ids[: 1 + n_words], ids[-1]]
        table[f"{n}."] = ids[:1] + ids[1 + n_words :]
        table[n] = ids[:1] + ids[1 + n_words : -2] + ids[-1:]  # a full stop and the end are left out
    return make_case(folder, tensors, info, table, templates, words)


def make_case(folder: Path, tensors: Any, info: Any, table: Any, templates: Any, words: str) -> Case:
    backbone = CLIPBackbone(CLIPModel.from_pretrained(folder / "tiny-clip"), TableTokenizer(table))
    return Case(tensors, info, Encoder(backbone), templates, words)


# Parameter names: the authors' -> ours.


def coop_names(method: Method) -> dict[str, str]:
    return {"prompt_learner.ctx": "ctx"}


def cocoop_names(method: Method) -> dict[str, str]:
    return {
        "prompt_learner.ctx": "ctx",
        **{
            f"prompt_learner.meta_net.{n}": f"meta_net.{n}"
            for n in ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")
        },
    }


def vision_names(method: Method) -> dict[str, str]:
    deep = {
        f"image_encoder.transformer.resblocks.{i + 1}.VPT_shallow": f"vision_deep.{i}"
        for i in range(len(method.vision_deep))
    }
    return {"image_encoder.VPT": "vision_ctx"} | deep


def ivlp_names(method: Method) -> dict[str, str]:
    deep = {
        f"text_encoder.transformer.resblocks.{i + 1}.VPT_shallow": f"text_deep.{i}"
        for i in range(len(method.text_deep))
    }
    return coop_names(method) | deep | vision_names(method)


def maple_names(method: Method) -> dict[str, str]:
    names = coop_names(method)
    for i in range(len(method.couplings)):
        theirs = "proj" if i == 0 else f"compound_prompt_projections.{i - 1}"
        names |= {f"prompt_learner.{theirs}.{w}": f"couplings.{i}.{w}" for w in ("weight", "bias")}
    for i in range(len(method.text_deep)):
        names[f"prompt_learner.compound_prompts_text.{i}"] = f"text_deep.{i}"
    return names


def plain_names(method: Method) -> dict[str, str]:
    """Names that are the authors' but for the module before them."""
    return {f"prompt_learner.{name}": name for name, _ in method.named_parameters()}


def adapter_names(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.fc.{i}.weight": f"{ours}.{i}.weight" for i in (0, 2)}


def lora_names(method: Method) -> dict[str, str]:
    return {
        f"{theirs}transformer.resblocks.{i}.attn.{part[0]}_proj.w_lora_{x.upper()}": f"{ours}.{i}.{part}.{x}"
        for theirs, ours, layers in (("", "text", method.text), ("visual.", "vision", method.vision))
        for i in range(len(layers))
        for part in ("query", "key", "value")
        for x in "ab"
    }


def mma_names(method: Method) -> dict[str, str]:
    names = {}
    for i in range(len(method.shared)):
        layer = method.first + 1 + i
        for x in ("weight", "bias"):
            names[f"adapter_learner.shared_adapter.{layer}.0.{x}"] = f"shared.{i}.{x}"
            for theirs, ours in (("text", "text"), ("visual", "vision")):
                stem = f"adapter_learner.{theirs}_adapter.{layer}"
                names |= {
                    f"{stem}.down.0.{x}": f"{ours}_down.{i}.{x}",
                    f"{stem}.up.{x}": f"{ours}_up.{i}.{x}",
                }
    return names


def dpl_names(method: Method) -> dict[str, str]:
    branches = (("txt", "text", method.text_prompts), ("img", "vision", method.vision_prompts))
    return {
        f"prompt_learner.ctx_{theirs}_lst.{layer}": f"{ours}_prompts.{layer}"
        for theirs, ours, prompts in branches
        for layer in range(len(prompts))
    }


def set_parameters(case: Case, method: Method, names: dict[str, str], prefix: str = "param.") -> None:
    theirs = {n for n in case.tensors if n.startswith(prefix)}
    assert theirs == {prefix + n for n in names}, f"parameters {theirs} are not those of the method"
    for name, ours in names.items():
        parameter, value = method.get_parameter(ours), case[prefix + name]
        assert parameter.shape == value.shape, f"{ours}: {tuple(parameter.shape)} for {tuple(value.shape)}"
        parameter.data.copy_(value)


def run(case: Case, method: Method, names: dict[str, str]) -> Iterator[Check]:
    """Logits, loss, named losses and gradients with the case's parameters."""
    set_parameters(case, method, names)
    batch = case.batch()
    losses = method.loss(batch)
    losses["loss"].backward()
    yield "logits", method(batch.images), case["logits"], OUTPUT
    yield "loss", losses["loss"], case["loss"], OUTPUT
    for name, value in losses.items():
        if f"loss_{name}" in case.tensors:
            yield f"loss_{name}", value, case[f"loss_{name}"], OUTPUT
    for name, ours in names.items():
        gradient = method.get_parameter(ours).grad
        if case["param." + name].numel():
            yield f"grad {ours}", gradient, case["grad." + name], GRADIENT


# The cases.


def zeroshot(case: Case) -> Iterator[Check]:
    for ensemble, suffix in ((False, ""), (True, "_ensemble")):
        method = case.make("zeroshot", ensemble=ensemble)
        yield f"text_features{suffix}", method.class_features(), case["text_features" + suffix], OUTPUT
        yield f"logits{suffix}", method(case["pixel_values"]), case["logits" + suffix], OUTPUT
    yield "image_features", method.image_features(case["pixel_values"]), case["image_features"], OUTPUT


def coop(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make(
        "coop",
        n_ctx=c["N_CTX"],
        ctx_init=case.words,
        class_specific=c["CSC"],
        position=c["CLASS_TOKEN_POSITION"],
    )
    if case.words:
        yield "initial ctx", method.ctx, case["param.prompt_learner.ctx"], OUTPUT
    shape = case["param.prompt_learner.ctx"].shape
    case.tensors |= {
        key: case[key].flatten(0, -2) for key in ("param.prompt_learner.ctx", "grad.prompt_learner.ctx")
    }
    assert len(shape) == 2 + c["CSC"]
    yield from run(case, method, coop_names(method))


def coop_steps(case: Case) -> Iterator[Check]:
    method = case.make("coop", n_ctx=case.config["N_CTX"])
    names = coop_names(method)
    set_parameters(case, method, names, "start.")
    (objective,) = method.objectives()
    losses = []
    for step in range(len(case["train_labels"])):
        losses.append(descend(method, objective, case.batch("train_", step)))
    yield "loss of each step", torch.stack(losses), case["loss"], OUTPUT
    yield "end ctx", method.ctx, case["end.prompt_learner.ctx"], GRADIENT
    for key in sorted(k for k in case.tensors if k.startswith("lr_")):
        base, epochs = key.removeprefix("lr_").split("_")
        yield (
            key,
            torch.tensor(learning_rates(float(base), int(epochs)), dtype=torch.float64),
            case[key],
            1e-12,
        )


def descend(method: Method, objective: Any, batch: Batch) -> Tensor:
    objective.optimizer.zero_grad()
    losses = objective.loss(batch)
    method.backward(losses, Tensor.backward)
    objective.optimizer.step()
    return losses["loss"].detach()


def cocoop(case: Case) -> Iterator[Check]:
    method = case.make("cocoop", n_ctx=case.config["N_CTX"], ctx_init=case.words)
    yield from run(case, method, cocoop_names(method))


def vpt(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make("vpt", n_ctx=c["N_CTX_VISION"], depth=c["PROMPT_DEPTH_VISION"])
    yield from run(case, method, vision_names(method))


def ivlp(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make("ivlp", n_ctx=c["N_CTX_TEXT"], depth=c["PROMPT_DEPTH_TEXT"], ctx_init=case.words)
    yield from run(case, method, ivlp_names(method))


def maple(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make("maple", n_ctx=c["N_CTX"], depth=c["PROMPT_DEPTH"], ctx_init=case.words)
    yield from run(case, method, maple_names(method))


def kgcoop(case: Case) -> Iterator[Check]:
    from vlprompt.methods.kgcoop import distance

    method = case.make("kgcoop", ctx_init=case.words, knowledge=case.info["lambda"])
    yield from run(case, method, coop_names(method))
    yield "score", distance(method.class_features(), method.knowledge_features), case["score"], OUTPUT


def prograd(case: Case) -> Iterator[Check]:
    from vlprompt.methods.prograd import align

    share, n_ctx = case.info["lambda"], len(case["param.prompt_learner.ctx"])
    settings = {"projection": share, "temperature": case.info["T"], "n_ctx": n_ctx}
    method = case.make("prograd", **settings, ctx_init=case.words)
    set_parameters(case, method, coop_names(method))
    batch = case.batch()
    losses = method.loss(batch)
    yield "logits", method(batch.images), case["logits"], OUTPUT
    zeroshot_logits = method.logits(method.image_features(batch.images), method.general_features)
    yield "zeroshot_logits", zeroshot_logits, case["zeroshot_logits"], OUTPUT
    yield "loss_xe", losses["loss"], case["loss_xe"], OUTPUT
    yield "loss_kl", losses["general"], case["loss_kl"], OUTPUT
    for name, loss in (("grad_xe", losses["loss"]), ("grad_kl", losses["general"])):
        yield name, torch.autograd.grad(loss, method.ctx, retain_graph=True)[0], case[name], GRADIENT
    method.backward(losses, Tensor.backward)
    yield "projected", method.ctx.grad, case["projected"], GRADIENT
    conflict = align(case["conflict_grad_xe"], case["grad_kl"], share)
    yield "conflict_projected", conflict, case["conflict_projected"], GRADIENT


def promptsrc(case: Case) -> Iterator[Check]:
    from vlprompt.methods.promptsrc import gaussian_weights

    c = case.config
    method = case.make(
        "promptsrc",
        n_ctx=c["N_CTX_TEXT"],
        depth=c["PROMPT_DEPTH_TEXT"],
        ctx_init=case.words,
        text_weight=c["TEXT_LOSS_WEIGHT"],
        image_weight=c["IMAGE_LOSS_WEIGHT"],
    )
    yield from run(case, method, ivlp_names(method))
    theirs = case["gpa_weights_4_epochs"]
    ours = gaussian_weights(len(theirs), c["GPA_MEAN"], c["GPA_STD"])
    yield "gpa_weights_4_epochs", ours, theirs, OUTPUT


def supernet(case: Case, prefix: str) -> Method:
    """A supernet with the case's prompts and alphas; a layer's candidates lie side by side in ours."""
    before = prefix.removeprefix("param.")
    alphas = {b: case.tensors.pop(f"{before}alpha_{b}") for b in ("text", "image")}
    longest = {"text_max": alphas["text"].shape[1] - 1, "vision_max": alphas["image"].shape[1] - 1}
    method = case.make(Supernet, **PAPER | longest)
    method.text_alphas.data.copy_(alphas["text"])
    method.vision_alphas.data.copy_(alphas["image"])
    join_candidates(case, prefix)
    set_parameters(case, method, dpl_names(method), prefix)
    return method


def join_candidates(case: Case, prefix: str) -> None:
    """Replace ``...ctx_x_lst.<layer>.<candidate>`` by their concatenation ``...ctx_x_lst.<layer>``."""
    for key in [k for k in case.tensors if k.startswith(prefix) and k.endswith(".0") and "_lst." in k]:
        stem = key.removesuffix(".0")
        parts = sorted(
            (k for k in case.tensors if k.startswith(stem + ".")), key=lambda k: int(k.split(".")[-1])
        )
        case.tensors[stem] = torch.cat([case.tensors.pop(k) for k in parts])


def dpl_search(case: Case) -> Iterator[Check]:
    method = supernet(case, "param.")
    join_candidates(case, "grad.")
    yield from run(case, method, dpl_names(method))
    yield "grad alpha text", method.text_alphas.grad, case["grad_alpha_text"], GRADIENT
    yield "grad alpha image", method.vision_alphas.grad, case["grad_alpha_image"], GRADIENT


def dpl_search_steps(case: Case) -> Iterator[Check]:
    method = supernet(case, "start.")
    on_val, on_train = method.objectives()
    losses: dict[str, list[Tensor]] = {"loss_val": [], "loss_train": []}
    for step in range(len(case["train_labels"])):
        losses["loss_val"].append(descend(method, on_val, case.batch("val_", step)))
        losses["loss_train"].append(descend(method, on_train, case.batch("train_", step)))
    for name, values in losses.items():
        yield name, torch.stack(values), case[name], OUTPUT
    yield "end alpha text", method.text_alphas, case["end.alpha_text"], GRADIENT
    yield "end alpha image", method.vision_alphas, case["end.alpha_image"], GRADIENT
    join_candidates(case, "end.")
    for theirs, ours in dpl_names(method).items():
        yield f"end {ours}", method.get_parameter(ours), case["end." + theirs], GRADIENT


def dpl_train(case: Case) -> Iterator[Check]:

    lengths = from_alphas(case["alpha_text"], case["alpha_image"])
    yield "context lengths text", list(lengths.text), case["context_lengths_text"].tolist(), 0
    yield "context lengths image", list(lengths.vision), case["context_lengths_image"].tolist(), 0
    method = case.make(
        "dpl", text_lengths=lengths.text, vision_lengths=lengths.vision, text=case.config["CTX_INIT"]
    )
    yield from run(case, method, dpl_names(method))
    zeroshot_method = case.make("zeroshot", ensemble=False)
    teacher = zeroshot_method(case["pixel_values"])
    yield "zeroshot_logits", teacher, case["zeroshot_logits"], OUTPUT
    yield "loss_kl", distillation(method(case["pixel_values"]), teacher), case["loss_kl"], OUTPUT


def clip_adapter(case: Case) -> Iterator[Check]:
    method = case.make("clip_adapter", ratio=case.config["ratio"])
    yield from run(case, method, adapter_names("adapter", "adapter"))


def taskres(case: Case) -> Iterator[Check]:
    method = case.make("taskres", alpha=case.config["RESIDUAL_SCALE"])
    yield "base_text_features", method.base_features, case["base_text_features"], OUTPUT
    yield from run(case, method, {"prompt_learner.text_feature_residuals": "residual"})


def tcp(case: Case) -> Iterator[Check]:
    from vlprompt.methods.kgcoop import distance

    c = case.config
    method = case.make(
        "tcp",
        n_ctx=c["N_CTX"],
        class_tokens=c["N_CLASS_TOKENS"],
        class_layer=c["CLASS_PROMPT_LAYER"] + 1,
        knowledge=c["lambda"],
    )
    yield from run(case, method, plain_names(method))
    yield "logits_eval", method.eval()(case["pixel_values"]), case["logits_eval"], OUTPUT
    yield "score", distance(method.class_features(), method.knowledge_features), case["score"], OUTPUT


def mma(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make("mma", start=c["ADAPTER_START"], width=c["ADAPTER_DIM"], scale=c["ADAPTER_SCALE"])
    yield from run(case, method, mma_names(method))


def clip_lora(case: Case) -> Iterator[Check]:
    c = case.config
    method = case.make("clip_lora", rank=c["r"], alpha=c["alpha"], dropout=0.0)
    yield from run(case, method, lora_names(method))
    yield "logits_eval", method.eval()(case["pixel_values"]), case["logits_eval"], OUTPUT


def mmrl(case: Case) -> Iterator[Check]:
    c = case.config
    first, *_ = c["REP_LAYERS"]
    settings = {"n_tokens": c["N_REP_TOKENS"], "width": c["REP_DIM"], "start": first}
    method = case.make("mmrl", **settings, alpha=c["ALPHA"], regularization=c["REG_WEIGHT"])
    names = {"image_encoder.proj_rep": "projection", "representation_learner.compound_rep_tokens": "tokens"}
    for i in range(len(method.to_text)):
        for x in ("weight", "bias"):
            stem = "representation_learner.compound_rep_tokens_r2"
            names |= {f"{stem}{b[0]}proj.{i}.{x}": f"to_{b}.{i}.{x}" for b in ("text", "vision")}
    case.tensors["logits"], by_class = case["logits_test_base"], case["logits"]
    ce = case.tensors.pop("loss_ce")
    yield from run(case, method, names)
    terms, share = method.loss(case.batch()), c["ALPHA"]
    yield "loss_ce", terms["ce"] / share, ce, OUTPUT
    yield "loss_ce_rep", terms["ce_tokens"] / (1 - share), case["loss_ce_rep"], OUTPUT
    yield "cos_image", 1 - terms["image"] / c["REG_WEIGHT"], case["cos_image"], OUTPUT
    yield "cos_text", 1 - terms["text"] / c["REG_WEIGHT"], case["cos_text"], OUTPUT
    yield "text_features_clip", method.frozen_classes, case["text_features_clip"], OUTPUT
    images, classes = method.image_features(case["pixel_values"]), method.class_features()
    yield "logits_rep", method.logits(images[:, 1], classes), case["logits_rep"], OUTPUT
    method.mixes = False
    yield "logits", method(case["pixel_values"]), by_class, OUTPUT
    yield "logits_test_new", method(case["pixel_values"]), case["logits_test_new"], OUTPUT


def coprompt(case: Case) -> Iterator[Check]:
    c = case.config
    case.templates = [case.info["sentences"][case.info["sentence_index"]]]
    method = case.make(
        "coprompt",
        n_ctx=c["N_CTX"],
        depth=c["PROMPT_DEPTH"],
        ctx_init=case.words,
        consistency=c["W"],
        image_ratio=c["image_adapter_m"],
        text_ratio=c["text_adapter_m"],
    )
    names = maple_names(method)
    for side in ("image", "text"):
        names |= adapter_names(f"adapter_{side}", f"adapter_{side}")
    yield from run(case, method, names)
    terms = method.loss(case.batch())
    for side in ("image", "text"):
        yield f"loss_distill_{side}", terms[side] / c["W"], case[f"loss_distill_{side}"], OUTPUT
    yield "logits_eval", method.eval()(case["pixel_values"]), case["logits_eval"], OUTPUT


def atprompt(case: Case) -> Iterator[Check]:
    c, count = case.config, case.config["ATT_NUM"]
    table = case.encoder.backbone.tokenizer.table
    words, lengths = ([c[key.format(i + 1)] for i in range(count)] for key in ("ATT{}_TEXT", "N_ATT{}"))
    for name, row in zip(case.classes, case["token_ids"].tolist(), strict=True):
        start, placeholder, at = row[0], row[1], 1
        for word, n in zip(words, lengths, strict=True):
            end = next(i for i in range(at + n, len(row)) if row[i] == placeholder)
            table[word] = [start, *row[at + n : end], max(row)]
            at = end
        table["X"] = [start, placeholder, max(row)]
        table[fill("{}.", name)] = [start, *row[at + c["N_CTX"] : row.index(max(row)) + 1]]
    settings = {"attributes": tuple(words), "attribute_lengths": tuple(lengths), "n_ctx": c["N_CTX"]}
    if "PROMPT_DEPTH" in c:
        method = case.make("maple+atprompt", **settings, one_token=True, depth=c["PROMPT_DEPTH"])
        names = maple_names(method)
    else:
        method = case.make("atprompt", **settings, one_token=True)
        names = coop_names(method)
    names |= {f"prompt_learner.ctx_att{i + 1}": f"attribute_tokens.{i}" for i in range(count)}
    yield from run(case, method, names)


def promptkd(case: Case) -> Iterator[Check]:
    c, classes = case.config, case["teacher_text_features"]
    settings = {"temperature": c["TEMPERATURE"], "distill": c["KD_WEIGHT"]}
    n_ctx, depth = c["N_CTX_VISION"], c["PROMPT_DEPTH_VISION"]
    method = case.make("promptkd", **settings, n_ctx=n_ctx, depth=depth)
    method.taught_by(classes)
    names = vision_names(method)
    for ours, theirs in {"linear1": 0, "norm": 1, "linear2": 3}.items():
        for x in ("weight", "bias"):
            names[f"VPT_image_trans.conv1.{theirs}.{x}"] = f"projector.{ours}.{x}"
    for key in [key for key, t in case.tensors.items() if t.ndim == 4 and "conv1" in key]:
        case.tensors[key] = case[key][..., 0, 0]  # a convolution of one pixel is a linear layer
    set_parameters(case, method, names)
    norm, stem, teacher = method.projector.norm, "VPT_image_trans.conv1.1.running_", case["teacher_logits"]

    def restart() -> Batch:
        norm.mean.copy_(case[f"buffer.{stem}mean"])
        norm.variance.copy_(case[f"buffer.{stem}var"])
        return case.batch()._replace(taught=lambda: teacher)

    loss = method.loss(restart())["loss"]
    loss.backward()
    yield "loss", loss, case["loss"], OUTPUT
    for theirs, ours in names.items():
        gradient = method.get_parameter(ours).grad
        if theirs in case.info["grad_zero"]:
            least = GRADIENT * case["grad.VPT_image_trans.conv1.0.weight"].norm()
            yield f"grad {ours} is zero", bool(gradient.norm() <= least), True, 0
        else:
            yield f"grad {ours}", gradient, case["grad." + theirs], GRADIENT
    yield "running mean after it", norm.mean.clone(), case[f"buffer_after.{stem}mean"], OUTPUT
    yield "running variance after it", norm.variance.clone(), case[f"buffer_after.{stem}var"], OUTPUT
    images = method.image_features(restart().images).detach()
    yield "image_features", images, case["image_features"], OUTPUT
    yield "logits", method.logits(images, method.class_features()), case["logits"], OUTPUT
    yield "teacher_logits", method.logits(case["teacher_image_features"], classes), teacher, OUTPUT
    restart()
    half = -(-len(case.classes) // 2)
    for part, few in (("base", case.classes[:half]), ("new", case.classes[half:])):
        method.eval().transfer(few)
        yield f"logits_test_{part}", method(case["pixel_values"]), case[f"logits_test_{part}"], OUTPUT


def clip_lora_steps(case: Case) -> Iterator[Check]:
    c, steps = case.config, case.info["steps"]
    method = case.make("clip_lora", rank=c["r"], alpha=c["alpha"], dropout=0.0)
    names = lora_names(method)
    set_parameters(case, method, names, "start.")
    (objective,) = method.objectives()
    losses = []
    for step in range(steps):
        for group in objective.optimizer.param_groups:
            group["lr"] = method.learning_rate(step, steps)
        losses.append(descend(method, objective, case.batch()))
    yield "losses", torch.stack(losses), case["losses"], OUTPUT
    yield "logits_end", method.eval()(case["pixel_values"]), case["logits_end"], OUTPUT
    for theirs, ours in names.items():
        start, end = case["start." + theirs], case["end." + theirs]
        yield f"moved {ours}", method.get_parameter(ours) - start, end - start, STEPS


CASES: dict[str, Callable[[Case], Iterator[Check]]] = {
    "zeroshot": zeroshot,
    **{f"coop_{kind}": coop for kind in ("generic", "csc", "middle", "front", "init")},
    "coop_steps": coop_steps,
    "cocoop": cocoop,
    "vpt_shallow": vpt,
    "vpt_deep": vpt,
    "ivlp": ivlp,
    "maple": maple,
    "kgcoop": kgcoop,
    "prograd": prograd,
    "promptsrc": promptsrc,
    "dpl_search": dpl_search,
    "dpl_search_steps": dpl_search_steps,
    "dpl_train": dpl_train,
    "clip_adapter": clip_adapter,
    "taskres": taskres,
    "taskres_ensemble": taskres,
    "tcp": tcp,
    "mma": mma,
    "clip_lora": clip_lora,
    "clip_lora_steps": clip_lora_steps,
    "mmrl": mmrl,
    "coprompt": coprompt,
    "promptkd": promptkd,
    **{f"atprompt{kind}": atprompt for kind in ("", "_1", "_3", "_split", "_maple", "_maple_1")},
}


def fewshot(folder: Path) -> Iterator[Check]:
    """The images that CoOp's sampling selects, in order."""
    content = json.loads((folder / "fewshot.json").read_text())
    splits = {
        name: [Item(path, label) for path, label, _ in items] for name, items in content["split"].items()
    }
    everything = [item for items in content["split"].values() for item in items]
    names = {label: name for _, label, name in everything}
    dataset = Dataset("golden", tuple(names[label] for label in sorted(names)), **splits)
    for key, expected in content["expected"].items():
        seed, shots, *which = key.split("-")
        seed, shots = int(seed.removeprefix("seed")), int(shots.removeprefix("shots"))
        random.seed(0)
        ours = subsample(few_shot(dataset, shots, seed, strict=False), which[0])
        for split, theirs in expected.items():
            items = [[item.image, item.label, ours.classnames[item.label]] for item in getattr(ours, split)]
            yield f"{key} {split}", items, [list(item) for item in theirs], 0


def error(ours: Any, theirs: Any) -> float:
    """Relative L2 error; for lists, 0 if equal."""
    if not isinstance(theirs, Tensor):
        return 0.0 if ours == theirs else float("inf")
    ours, theirs = ours.detach().double(), theirs.double()
    if ours.shape != theirs.shape or not ours.isfinite().all():
        return float("inf")
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def checks_of(folder: Path, name: str) -> Iterator[Check]:
    """The checks of one case.

    Raises:
        UserError: its method is not there.
    """
    return fewshot(folder) if name == "fewshot" else CASES[name](read_case(folder, name))


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--require", default="", help="cases that must be there and pass, comma-separated")
    arguments = parser.parse_args(argv)
    hf_logging.disable_progress_bar()
    required = [name for name in arguments.require.split(",") if name]
    there = sorted(p.stem for p in arguments.folder.glob("*.safetensors"))
    there += ["fewshot"] if (arguments.folder / "fewshot.json").is_file() else []
    if not there:
        print(
            f"parity: no golden cases in '{arguments.folder}': give a folder of <case>.safetensors",
            file=sys.stderr,
        )
        return 2
    failed = [name for name in required if name not in there]
    for name in failed:
        print(f"{name:18} {'missing':34} {'':9} FAIL")
    for name in there:
        if name not in CASES and name != "fewshot":
            print(f"{name:18} not implemented")
            failed += [name] if name in required else []
            continue
        try:
            for quantity, ours, theirs, tolerance in checks_of(arguments.folder, name):
                difference = error(ours, theirs)
                passed = difference <= tolerance
                print(f"{name:18} {quantity:34} {difference:9.2e} {'pass' if passed else 'FAIL'}")
                failed += [] if passed else [name]
        except UserError as problem:
            if not str(problem).startswith("unknown method"):
                raise
            print(f"{name:18} not implemented")
            failed += [name] if name in required else []
    print(
        f"{len(there)} cases, {len(set(failed))} failed"
        + (f": {', '.join(sorted(set(failed)))}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

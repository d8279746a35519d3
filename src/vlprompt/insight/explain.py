"""Which parts of an image a prediction rests on: gradient-weighted attention roll-out.

The rule is that of Chefer et al. (arXiv 2103.15679, section 3): with A the attention probabilities of
a layer and dA the gradient of the class's logit, ``R <- R + mean over heads of (dA * A)+  R``, from the
identity on. Prompt tokens hold nothing of the image, so their rows of R start as zeros, and keys and
values that a prompt adds have no row at all.

Shapes: h heads, T positions of a layer, c prompt keys, N class token and patches of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vlprompt.data.images import open_image
from vlprompt.data.thumbnails import thumbnail
from vlprompt.data.transforms import EvalTransform
from vlprompt.dataset import ImageSource
from vlprompt.engine.attention import record_attention
from vlprompt.engine.prompt import Prompt
from vlprompt.errors import UserError
from vlprompt.insight.words import nearest_words
from vlprompt.methods.base import Method


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image a class was seen.

    Args:
        image: the image, RGB and upright.
        heat: (H, W) from 0 to 1, how much each place spoke for the class; 0 where the backbone's
            processor cuts the image off.
        class_name: the class that is explained.
        probability: of that class.
        words: the word nearest to each learned context token; empty where no text context is learned.
    """

    image: Image.Image
    heat: np.ndarray
    class_name: str
    probability: float
    words: tuple[str, ...]

    def overlay(self, strength: float = 0.7) -> Image.Image:
        """The image with the heat laid over it; ``strength`` is the opacity of the hottest place."""
        from matplotlib import colormaps

        colour = colormaps["inferno"](self.heat)[..., :3] * 255  # (H, W, 3)
        opacity = strength * self.heat[..., None]
        pixels = (1 - opacity) * np.asarray(self.image) + opacity * colour
        return Image.fromarray(pixels.round().astype(np.uint8))

    def _repr_html_(self) -> str:
        """What a notebook shows: the overlay."""
        words = f"{escape(self.class_name)} {100 * self.probability:.0f} %"
        return f'<img src="{thumbnail(self.overlay(), 320)}" alt="{words}" width="240"><br>{words}'


def explain(method: Method, image: ImageSource, class_name: str | None = None) -> Explanation:
    """Which parts of an image speak for a class.

    Args:
        method: a trained method.
        image: path, PIL image or array.
        class_name: one of the method's classes; the predicted one by default.

    Raises:
        UserError: the class or the image cannot be used.
    """
    if class_name is not None and class_name not in method.classnames:
        raise UserError(
            f"class '{class_name}' is none of the classifier's {len(method.classnames)}: "
            f"give one of {', '.join(method.classnames[:10])}"
        )
    picture, processor = open_image(image), method.encoder.backbone.processor
    backbone = method.encoder.backbone
    pixels = EvalTransform(processor)([picture]).to(backbone.device, backbone.dtype)  # (1, 3, S, S)
    chosen = None if class_name is None else method.classnames.index(class_name)
    relevance, probabilities = patch_relevance(method, pixels, chosen)
    chosen = int(probabilities.argmax()) if chosen is None else chosen
    name = method.classnames[chosen]
    words = (t.by_distance[0].word for t in nearest_words(method, 1) if t.class_name in ("", name))
    heat = _spread(relevance, seen_box(processor, *picture.size), picture.size)
    return Explanation(picture, heat, name, float(probabilities[chosen]), tuple(words))


def patch_relevance(method: Method, pixels: Tensor, chosen: int | None = None) -> tuple[Tensor, Tensor]:
    """How much each patch spoke for a class.

    Args:
        pixels: (1, 3, S, S), as the backbone wants them.
        chosen: index of the class; the predicted one by default.

    Returns:
        Relevance (N - 1,) of the patches, row by row, and the probabilities (K,).
    """
    if method.encoder.backbone.read_tokens > 1:
        raise UserError(
            f"an explanation follows the class token, which '{method.encoder.backbone.name}' does not have: "
            "use a CLIP"
        )
    with torch.no_grad():
        predictor = method.predictor()
    with torch.enable_grad(), record_attention() as attentions:
        # Where no prompt is learned in the vision branch, only the pixels can carry a gradient.
        logits = predictor(pixels.detach().requires_grad_())[0]  # (K,)
        layers = len(method.encoder.backbone.vision_layers)
        if len(attentions) != layers:
            raise UserError(
                f"method '{method.name}' runs {len(attentions)} vision layers for an image and the backbone "
                f"has {layers}: only a method that encodes an image once can be explained"
            )
        target = logits.argmax() if chosen is None else chosen
        gradients = torch.autograd.grad(logits[target], attentions)
    others = 1 + method.encoder.backbone.registers
    tokens = others + method.encoder.backbone.patches
    probabilities = [a[0].detach() for a in attentions]
    relevance = roll_out(probabilities, [g[0] for g in gradients], tokens, method.vision_prompt())
    return relevance[others:], logits.detach().softmax(-1)


def roll_out(
    attentions: Sequence[Tensor], gradients: Sequence[Tensor], tokens: int, prompt: Prompt | None
) -> Tensor:
    """Relevance (N,) of the image's tokens for the class token after the last layer.

    Args:
        attentions, gradients: (h, T, c + T) of every layer; of the last one (h, 1, c + T).
        tokens: N, the class token, registers if any, and the patches; prompt tokens stand after them.
        prompt: whose deep tokens take the place of others.
    """
    deep = dict(enumerate(prompt.deep, 1)) if prompt else {}
    first = attentions[0]
    relevance = torch.eye(first.shape[1], tokens, dtype=first.dtype, device=first.device)  # (T, N)
    for index, (probability, gradient) in enumerate(zip(attentions, gradients, strict=True)):
        if (fresh := deep.get(index)) is not None:
            relevance = torch.cat([relevance[:tokens], relevance.new_zeros(len(fresh), tokens)])
        weight = (gradient * probability).clamp(min=0).mean(0)  # (T, c + T)
        relevance = relevance[: len(weight)] + weight[:, -len(relevance) :] @ relevance
    return relevance[0]


def seen_box(processor: Any, width: int, height: int) -> tuple[int, int, int, int]:
    """The part (left, top, right, bottom) of an image that is left after the processor's centre crop."""
    if not getattr(processor, "do_center_crop", False):
        return 0, 0, width, height
    size, crop = processor.size, processor.crop_size
    edge = size.get("shortest_edge")
    across = crop["width"] * (min(width, height) / edge if edge else width / size["width"])
    down = crop["height"] * (min(width, height) / edge if edge else height / size["height"])
    seen_width, seen_height = min(width, round(across)), min(height, round(down))
    left, top = (width - seen_width) // 2, (height - seen_height) // 2
    return left, top, left + seen_width, top + seen_height


def _spread(relevance: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Relevance of the patches (N - 1,) -> heat from 0 to 1 over an image of a size (width, height)."""
    side = round(len(relevance) ** 0.5)
    low, high = relevance.min(), relevance.max()
    grid = ((relevance - low) / (high - low).clamp(min=1e-30)).view(1, 1, side, side).float().cpu()
    left, top, right, bottom = box
    heat = np.zeros(size[::-1], dtype=np.float32)
    heat[top:bottom, left:right] = F.interpolate(grid, (bottom - top, right - left), mode="bilinear")[0, 0]
    return heat

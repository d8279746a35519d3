"""Context lengths per layer and branch: what DPL's search finds and what deep prompts are made by."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlprompt.errors import UserError


@dataclass(frozen=True)
class Lengths:
    """Context length of every layer.

    Args:
        text, vision: one length a layer; 0 is no prompt.
        text_confidence, vision_confidence: softmax(alpha) of each chosen length; empty where the
            lengths were set by hand.
    """

    text: tuple[int, ...]
    vision: tuple[int, ...]
    text_confidence: tuple[float, ...] = ()
    vision_confidence: tuple[float, ...] = ()

    @staticmethod
    def from_alphas(text: Tensor, vision: Tensor) -> Lengths:
        """The argmax of each layer's alphas (layers, C+1); the confidence is their softmax."""
        (text_p, text_n), (vision_p, vision_n) = (a.detach().softmax(-1).max(-1) for a in (text, vision))
        return Lengths(
            tuple(text_n.tolist()), tuple(vision_n.tolist()), tuple(text_p.tolist()), tuple(vision_p.tolist())
        )

    @property
    def total(self) -> int:
        """Number of context tokens in all layers of both branches."""
        return sum(self.text) + sum(self.vision)

    def save(self, path: Path) -> None:
        """Write JSON; the file appears whole or not at all."""
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(beside, path)

    @staticmethod
    def load(path: Path) -> Lengths:
        """Read JSON written by :meth:`save` or by hand.

        Raises:
            UserError: no such file, or not two lists of whole numbers.
        """
        try:
            content = json.loads(path.read_text())
            lengths = Lengths(**{key: tuple(value) for key, value in content.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"lengths file '{path}' cannot be read ({error}): "
                'write {"text": [4, 4, ...], "vision": [4, 4, ...]}, one number a layer'
            ) from error
        if not all(isinstance(n, int) and n >= 0 for n in lengths.text + lengths.vision):
            raise UserError(f"lengths file '{path}': lengths are whole numbers from 0, one a layer")
        return lengths

    def check(self, text_layers: int, vision_layers: int) -> None:
        """Raise a :class:`UserError` unless there is one length for every layer of the backbone."""
        for branch, lengths, layers in (
            ("text", self.text, text_layers),
            ("vision", self.vision, vision_layers),
        ):
            if len(lengths) != layers:
                raise UserError(
                    f"{len(lengths)} {branch} lengths for a backbone with {layers} {branch} layers: "
                    "give one length a layer"
                )


def uniform_alphas(layers: int, longest: int, device: torch.device) -> torch.nn.Parameter:
    """Architecture weights (layers, longest + 1), drawn from 1e-3 * N(0, 1) on the CPU."""
    return torch.nn.Parameter((1e-3 * torch.randn(layers, longest + 1)).to(device))

"""Context lengths and the alphas that they come from: tables, words and figures as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vlprompt.methods.lengths import Lengths, agreed
from vlprompt.reports.page import Html, figure, paragraph, table
from vlprompt.reports.plots import Weights, alpha_evolution, alpha_heatmaps
from vlprompt.reports.svg import inline_svg

BRANCHES = ("text", "vision")


def lengths_table(lengths: Mapping[int, Lengths]) -> str:
    """Length and confidence of every layer, a row a branch and seed, as HTML.

    Args:
        lengths: by seed, one or more.
    """
    layers = max(len(branch) for found in lengths.values() for branch in (found.text, found.vision))
    rows = []
    for branch in BRANCHES:
        for seed, found in lengths.items():
            if not (chosen := getattr(found, branch)):
                continue
            cells = _length_cells(chosen, getattr(found, f"{branch}_confidence"))
            rows.append([branch, str(seed), *cells, *["–"] * (layers - len(cells)), str(sum(chosen))])
    head = ["branch", "seed", *(str(n + 1) for n in range(layers)), "tokens"]
    caption = "Context length of each layer, the first to the left; 0 is no prompt."
    if any(found.text_confidence or found.vision_confidence for found in lengths.values()):
        caption += " Below each: confidence, the softmax(alpha) of the chosen length."
    return table(head, rows, caption)


def _length_cells(lengths: Sequence[int], confidence: Sequence[float]) -> list[str]:
    if not confidence:
        return [str(n) for n in lengths]
    return [Html(f"{n}<br><small>{p:.2f}</small>") for n, p in zip(lengths, confidence, strict=True)]


def agreement(lengths: Mapping[int, Lengths]) -> str:
    """How far several seeds found the same, in words, as HTML; nothing for one seed."""
    seeds = len(lengths)
    if seeds < 2:
        return ""
    most = agreed(list(lengths.values()))
    sentences = []
    for branch in BRANCHES:
        votes = [round(share * seeds) for share in getattr(most, f"{branch}_confidence")]
        if votes:
            sentences.append(
                f"In the {branch} branch all {seeds} seeds chose the same length in "
                f"{votes.count(seeds)} of {len(votes)} layers "
                f"(most frequent choice, layer by layer: {_plain(votes)} of {seeds})."
            )
    return paragraph(" ".join(sentences))


def alpha_map(
    index: int, alphas: Mapping[str, Weights], chosen: Mapping[str, Sequence[int]], of_seed: str
) -> str:
    """The weights at the end of the search, and what was made of them."""
    words = (f"{branch} branch {_plain(lengths)}" for branch, lengths in chosen.items())
    alt = f"Chosen length of each layer: {'; '.join(words)}"
    svg = inline_svg(alpha_heatmaps(alphas, chosen), f"alphas{index}", alt)
    return figure(svg, f"Weight, softmax(alpha), of each context length. Framed: chosen.{of_seed}")


def alpha_curves(index: int, alphas: Sequence[Mapping[str, Weights]], of_seed: str) -> str:
    """The weights over the epochs of the search."""
    alt = f"Weight of each context length: over {len(alphas)} epochs of search, a panel a layer"
    svg = inline_svg(alpha_evolution(alphas), f"evolution{index}", alt)
    caption = "Weights after each epoch of the search, a panel a layer."
    caption += f" Thick blue: the heaviest length; orange: the runner-up; grey: the others.{of_seed}"
    return figure(svg, caption)


def _plain(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))

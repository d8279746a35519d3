"""Results on standard output: as lines, a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from vlprompt.methods.lengths import Lengths


WORDS = {
    "accuracy": "accuracy {:.2f} %",
    "macro_f1": "macro-F1 {:.2f} %",
    "ece": "calibration error {:.2f} % (how far confidence is from accuracy; 0 is best)",
    "n": "{} images",
}
"""Metrics as people read them."""


def show(result: dict[str, Any], as_json: bool) -> None:
    """A result as one JSON object, or as lines."""
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(WORDS.get(k, k + " {}").format(v) for k, v in value.items())
        print(f"{key:10} {value}")


def show_rows(rows: Sequence[dict[str, Any]], form: Literal["table", "json", "csv"]) -> None:
    """Rows of equal keys as a table, JSON or CSV on standard output."""
    if form == "json":
        print(json.dumps(list(rows), ensure_ascii=False))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(*(Column(name, overflow="fold") for name in (rows[0] if rows else [])))
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        Console().print(table, markup=False)


def show_lengths(lengths: Lengths, title: str) -> None:
    """Length of every layer, and its confidence where there is one; a row a branch."""
    layers = max(len(lengths.text), len(lengths.vision))
    table = Table("branch", *(f"layer {i + 1}" for i in range(layers)), title=title)
    for branch, chosen, confidence in (
        ("text", lengths.text, lengths.text_confidence),
        ("vision", lengths.vision, lengths.vision_confidence),
    ):
        if not chosen:
            continue
        sure = [f" ({p:.2f})" for p in confidence] or [""] * len(chosen)
        table.add_row(branch, *(f"{n}{p}" for n, p in zip(chosen, sure, strict=True)))
    Console().print(table)

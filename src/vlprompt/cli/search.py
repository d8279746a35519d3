"""The command ``vlprompt search``, whose settings are DPL's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from vlprompt.cli.console import show, show_lengths
from vlprompt.cli.method_flags import early, parse
from vlprompt.methods import get_method

if TYPE_CHECKING:
    from vlprompt.jobs.search import Searched


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Where to search, and what to write."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images: a folder of class folders, a CSV file, toy:TASK, a benchmark's name, or hub:OWNER/NAME; texts:
    a CSV file or hub:OWNER/NAME"""
    out: Path = Path("lengths.json")
    """file of the found lengths; a page of the search is written beside it"""
    model: str = "toy"
    """frozen backbone: 'toy', 'toy-deep', a local folder, or a hub id"""
    shots: int | None = 16
    """training images a class; None takes all"""
    root: Path | None = None
    """folder of the benchmark's data sets"""
    text_column: str = "text"
    """column of the texts, where the data holds texts"""
    label_column: str = "label"
    """column of their labels"""
    preset: str = ""
    """another setting of DPL: 'paper' is the search as published"""
    seeds: tuple[int, ...] = (1,)
    """of several searches the mean length of each layer is taken"""
    control: int = 0
    """train the found lengths anew, and with as many tokens a uniform and so many random placements"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    force: bool = False
    """write over the outputs whoever made them"""
    json: bool = False
    """print one JSON object"""


def search(argv: Sequence[str]) -> None:
    """Find the context length of every layer and write it as a file."""
    kind = get_method("dpl")
    published = kind.Settings(**kind.preset(early(argv, "--preset", "")))
    options, settings = parse("search", search.__doc__ or "", SearchOptions, published, argv)

    from vlprompt import data
    from vlprompt.jobs import search as job

    result = job.search(
        data.load(options.data, options.root, data.Columns(options.text_column, options.label_column)),
        job.Search(settings, options.model, options.device, verbose=not options.json),
        options.out,
        shots=options.shots,
        seeds=options.seeds,
        control=options.control,
        command="vlprompt search " + shlex.join(argv),
        force=options.force,
    )
    if options.json:
        show(_plain(result), True)
    else:
        _print(result)


def _plain(result: Searched) -> dict[str, object]:
    found = result.found.values()
    return {
        "lengths": asdict(result.lengths),
        "seconds": [round(f.seconds, 1) for f in found],
        "steps": [f.steps for f in found],
        "agreement": [f.agreement for f in found],
        "curve": [f.curve[0] if f.curve else [] for f in found],
        "accuracy": result.accuracy,
        "out": str(result.out),
        "report": str(result.report),
    }


def _print(result: Searched) -> None:
    console, lengths, accuracy = Console(), result.lengths, result.accuracy
    for seed, one in result.found.items():
        show_lengths(one.lengths, f"Searched lengths, seed {seed}")
        console.print(f"{len(one.history)} epochs, {one.steps} steps, {one.seconds:.0f} s")
        if one.curve:
            console.print(_curve(*one.curve))
        if one.agreement is not None:
            console.print(_halves(one.agreement, one.decided))
    if len(result.found) > 1:
        show_lengths(lengths, f"Mean of {len(result.found)} seeds, with the share of them that found it")
    if accuracy:
        console.print(_compared(accuracy))
    console.print(f"lengths in {result.out}, report in {result.report}", markup=False)


def _curve(points: Sequence[Mapping[str, Any]], chosen: int) -> Table:
    """Accuracy on validation images by number of tokens."""
    table = Table("tokens", "searched", "even", "random", "text layers", "vision layers")
    table.title = "Validation accuracy by size, when the size was chosen"
    table.caption = "chosen: the smallest whose loss is within one standard error of the best"
    for index, point in enumerate(points):
        accuracies = [point["accuracy"], fmean(point["even"]), fmean(point["random"])]
        lengths = [" ".join(map(str, point[branch])) for branch in ("text", "vision")]
        mark = " chosen" if index == chosen else ""
        table.add_row(f"{point['tokens']}{mark}", *(f"{a:.1f}" for a in accuracies), *lengths)
    return table


def _halves(agreement: float, decided: bool) -> str:
    """How far halves of the images agree, in words."""
    line = f"halves of the images agree about the layers with a correlation of {agreement:.2f}"
    return line if decided else f"{line}: nothing is to be decided, tokens are spread evenly"


def _compared(accuracy: dict[str, Any]) -> Table:
    """Accuracies with one number of tokens, a row a placement."""
    table = Table("placement", "test accuracy", title=f"{accuracy['tokens']} tokens, first seed")
    rows = {
        "searched, its prompts kept": accuracy["searched"],
        "searched, fresh prompts": accuracy["found"],
        "spread evenly": accuracy["uniform"],
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, f"{value:.1f}")
    if drawn := accuracy["random"]:
        each = ", ".join(f"{value:.1f}" for value in drawn)
        table.add_row("at random", f"{sum(drawn) / len(drawn):.1f} ({each})")
    if accuracy["uniform"] is None:
        table.caption = "the longest everywhere: no other placement has as many tokens"
    return table

"""The context length of every layer, found on labelled images and written as a file.

Whether the search helped is measured and not assumed: the found lengths are trained, and beside them
lengths drawn at random with the same number of tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import check_targets
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.lengths import Lengths, agreed, random_lengths
from vlprompt.reports.training import Run, write_report


@dataclass(frozen=True)
class Found:
    """What a search found, and what it cost.

    Args:
        steps: batches of training images.
    """

    lengths: Lengths
    history: list[dict[str, Any]]
    seconds: float
    steps: int


@dataclass(frozen=True)
class Search:
    """How to search: settings of DPL, which also say how the found lengths are trained."""

    settings: Settings
    model: str = "toy"
    device: str = "auto"
    verbose: bool = False

    def run(self, dataset: Dataset, seed: int) -> Found:
        """The search stage alone."""
        start = time.perf_counter()
        stage = {"epochs": 0, "text_lengths": (), "vision_lengths": ()}
        classifier = self._fit(dataset, stage, seed)
        a_epoch = max(len(dataset.train) // self.settings.batch_size, 1)
        history, lengths = classifier.history_, classifier.method_.lengths
        assert isinstance(lengths, Lengths)
        return Found(lengths, history, time.perf_counter() - start, len(history) * a_epoch)

    def accuracy(self, dataset: Dataset, lengths: Lengths, seed: int) -> float:
        """Test accuracy of lengths, trained from the start."""
        given = {"text_lengths": lengths.text, "vision_lengths": lengths.vision, "inherit": False}
        return self._fit(dataset, given, seed).evaluate(dataset.test)["accuracy"]

    def compare(self, dataset: Dataset, lengths: Lengths, control: int, seed: int) -> dict[str, Any]:
        """Test accuracy of found lengths, and of random ones with the same number of tokens.

        Where the found ones are the longest everywhere there are no others with as many tokens, and no
        control.
        """
        draw, layers = random.Random(seed), (len(lengths.text), len(lengths.vision))
        longest = max(self.settings.text_max, self.settings.vision_max)
        count = control if lengths.total < sum(layers) * longest else 0
        controls = [random_lengths(draw, layers, longest, lengths.total) for _ in range(count)]
        return {
            "found": self.accuracy(dataset, lengths, seed),
            "random": [self.accuracy(dataset, drawn, seed) for drawn in controls],
        }

    def _fit(self, dataset: Dataset, changes: dict[str, Any], seed: int) -> PromptClassifier:
        settings = asdict(self.settings) | changes
        classifier = PromptClassifier(
            "dpl", self.model, settings, seed=seed, device=self.device, verbose=self.verbose
        )
        return classifier.fit_dataset(dataset)


@dataclass(frozen=True)
class Searched:
    """What the searches of several seeds found.

    Args:
        found: by seed.
        lengths: what they agree on.
        accuracy: ``found`` and ``random``, see :meth:`Search.compare`; empty without a control.
        out: file of the lengths.
        report: page beside it.
    """

    found: dict[int, Found]
    lengths: Lengths
    accuracy: dict[str, Any]
    out: Path
    report: Path


def search(
    pool: Dataset,
    how: Search,
    out: Path,
    *,
    shots: int | None = 16,
    seeds: Sequence[int] = (1,),
    control: int = 0,
    command: str,
    force: bool = False,
) -> Searched:
    """Search with every seed, write the lengths as ``out`` and a page beside it.

    Args:
        control: number of random lengths that are trained for comparison, on the first seed's images.
        command: what made this, for the page.
        force: write over both whoever made them.

    Raises:
        UserError: see the message.
    """
    page = out.with_suffix(".html")
    if page == out:
        raise UserError(f"output '{out}' is where the page goes: give a name that ends in .json")
    check_targets(out, page, force=force)
    samples = {s: data.few_shot(pool, shots, s, strict=True) for s in seeds}
    found = {s: how.run(sample, s) for s, sample in samples.items()}
    runs = [f.lengths for f in found.values()]
    lengths = runs[0] if len(runs) == 1 else agreed(runs)
    lengths.save(out)
    seed, sample = next(iter(samples.items()))
    accuracy = how.compare(sample, lengths, control, seed) if control else {}
    pages = [
        Run("DPL search", "dpl", s, {}, f.history, f.lengths, f.seconds, sample.classnames)
        for s, f in found.items()
    ]
    write_report(page, pages, title=f"Search on {pool.name}", dataset=pool.name, command=command)
    return Searched(found, lengths, accuracy, out, page)

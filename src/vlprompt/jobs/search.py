"""The context length of every layer, found on labelled images and written as a file.

Whether the search helped is measured and not assumed: the found lengths are trained from the start, and
beside them as many tokens spread evenly, and drawn at random.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.estimator.text import classifier_for
from vlprompt.files import check_targets
from vlprompt.methods.dpl.settings import Settings
from vlprompt.methods.lengths import Lengths, averaged, random_lengths, uniform_lengths
from vlprompt.reports.sizes import curve_of
from vlprompt.reports.training import Run, write_report
from vlprompt.training.options import check_seeds
from vlprompt.typed import Between, checked


@dataclass(frozen=True)
class Found:
    """What a search found, and what it cost.

    Args:
        steps: batches of training images.
        classifier: as the search leaves it.
    """

    classifier: PromptClassifier
    lengths: Lengths
    history: list[dict[str, Any]]
    seconds: float
    steps: int

    @property
    def curve(self) -> tuple[Sequence[Mapping[str, Any]], int] | None:
        """The sizes of a search that chose one (:mod:`vlprompt.methods.dpl.path`), and which it chose."""
        points, chosen = curve_of(self.history)
        return (points, chosen) if points else None

    @property
    def agreement(self) -> float | None:
        """Correlation of halves of the images about the layers, where the search by gates measured it."""
        return self.history[-1].get("agreement") if self.history else None

    @property
    def decided(self) -> bool:
        """Whether tokens went where the halves wanted them; evenly otherwise."""
        return self.history[-1].get("placed", True) if self.history else True


@dataclass(frozen=True)
class Search:
    """How to search: settings of DPL, which also say how the found lengths are trained."""

    settings: Settings
    model: str = "toy"
    device: str = "auto"
    verbose: bool = False

    def run(self, dataset: Dataset, seed: int) -> Found:
        """The search alone: no prompts are trained anew."""
        start = time.perf_counter()
        changes: dict[str, Any] = {"text_lengths": (), "vision_lengths": (), "fresh": False}
        if self.settings.search == "alphas":
            changes["epochs"] = 0
        classifier = self._fit(dataset, changes, seed)
        a_epoch = max(len(dataset.train) // self.settings.batch_size, 1)
        history, lengths = classifier.history_, classifier.method_.lengths
        assert isinstance(lengths, Lengths)
        return Found(classifier, lengths, history, time.perf_counter() - start, len(history) * a_epoch)

    def accuracy(self, dataset: Dataset, lengths: Lengths, seed: int) -> float:
        """Test accuracy of lengths, trained from the start."""
        given = {"text_lengths": lengths.text, "vision_lengths": lengths.vision}
        return self._fit(dataset, given, seed).evaluate(dataset.test)["accuracy"]

    def beside_controls(self, dataset: Dataset, found: Found, control: int, seed: int) -> dict[str, Any]:
        """Test accuracies at one number of tokens: of the search's own prompts, of its lengths with fresh
        prompts, of tokens spread evenly, and of ``control`` placements drawn at random.

        Where the found lengths are the longest everywhere there are no others with as many tokens.
        """
        lengths, s = found.lengths, self.settings
        longest = Lengths((s.text_max,) * len(lengths.text), (s.vision_max,) * len(lengths.vision))
        draw, others = random.Random(seed), lengths.total < longest.total
        drawn = [random_lengths(draw, longest, lengths.total) for _ in range(control if others else 0)]
        even = uniform_lengths(longest, lengths.total)
        kept = found.classifier if s.search == "gates" else None
        return {
            "tokens": lengths.total,
            "searched": kept.evaluate(dataset.test)["accuracy"] if kept else None,
            "found": self.accuracy(dataset, lengths, seed),
            "uniform": self.accuracy(dataset, even, seed) if others else None,
            "random": [self.accuracy(dataset, one, seed) for one in drawn],
        }

    def _fit(self, dataset: Dataset, changes: dict[str, Any], seed: int) -> PromptClassifier:
        settings = asdict(self.settings) | changes
        how: dict[str, Any] = {"seed": seed, "device": self.device, "verbose": self.verbose}
        return classifier_for(dataset)("dpl", self.model, settings, **how).fit_dataset(dataset)


@dataclass(frozen=True)
class Searched:
    """What the searches of several seeds found.

    Args:
        found: by seed.
        lengths: what they agree on.
        accuracy: of the first seed, see :meth:`Search.beside_controls`; empty without a control.
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
        control: number of random placements that are trained for comparison, on the first seed's images.
        command: what made this, for the page.
        force: write over both whoever made them.

    Raises:
        UserError: see the message.
    """
    if not out.name or out.suffix == ".html":
        raise UserError(f"output '{out}' is where the page goes: give a name that ends in .json")
    page = out.with_suffix(".html")
    check_seeds(seeds)
    checked(control, Annotated[int, Between(0, 1000)], "control")
    check_targets(out, page, force=force)
    samples = {s: data.few_shot(pool, shots, s, strict=True) for s in seeds}
    found = {s: how.run(sample, s) for s, sample in samples.items()}
    runs = [f.lengths for f in found.values()]
    lengths = runs[0] if len(runs) == 1 else averaged(runs)
    lengths.save(out)
    seed, sample = next(iter(samples.items()))
    accuracy = how.beside_controls(sample, found[seed], control, seed) if control else {}
    pages = [
        Run("DPL search", "dpl", s, {}, f.history, f.lengths, f.seconds, sample.classnames)
        for s, f in found.items()
    ]
    write_report(page, pages, title=f"Search on {pool.name}", dataset=pool.name, command=command)
    return Searched(found, lengths, accuracy, out, page)

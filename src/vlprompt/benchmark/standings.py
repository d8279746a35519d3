"""Methods on one data set, the most accurate first, and which of them to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from vlprompt.benchmark.results import Result, grouped
from vlprompt.reports.stats import duration, mean_std, number

HEAD = ("method", "accuracy (%)", "macro-F1 (%)", "calibration error (%)", "time", "learned numbers")
NOTE = (
    "Mean ± standard deviation over the seeds, each with training images of its own draw. Macro-F1 counts "
    "every class alike. Calibration error: how far confidence is from the share of right answers; 0 is best."
)


@dataclass(frozen=True)
class Standing:
    """How one method did, over its seeds."""

    row: str
    results: Sequence[Result]

    def values(self, key: str) -> list[float]:
        """A metric of every seed."""
        return [result.metrics["test"][key] for result in self.results]

    @property
    def seconds(self) -> list[float]:
        """Time of training and testing of every seed."""
        return [result.seconds for result in self.results]

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return max(result.parameters for result in self.results)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return mean_std(self.values("accuracy"))[0]

    @property
    def error(self) -> float:
        """Standard error of the mean accuracy; 0 of one seed."""
        values = self.values("accuracy")
        return mean_std(values)[1] / sqrt(len(values))


def standings(results: Sequence[Result]) -> list[Standing]:
    """The methods, the most accurate first."""
    rows = [Standing(row, own) for row, own in grouped(results, "row").items()]
    return sorted(rows, key=lambda standing: -standing.accuracy)


def to_take(ranked: Sequence[Standing]) -> Standing:
    """The method with the fewest learned numbers of those within one standard error of the best.

    The rule of Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """
    best = ranked[0]
    within = [s for s in ranked if s.accuracy >= best.accuracy - best.error]
    return min(within, key=lambda s: (s.parameters, mean_std(s.seconds)[0]))


def verdict(ranked: Sequence[Standing]) -> str:
    """Which method to take, and why, in a sentence or two."""
    best, taken = ranked[0], to_take(ranked)
    words = f"Highest accuracy: {best.row}, {best.accuracy:.1f} %."
    if len(best.results) < 2:
        return words + " One seed only, so there is no telling chance from difference."
    if taken is best:
        return words + f" None that learns less is within its standard error ({best.error:.1f})."
    return words + (
        f" Within one standard error of it ({best.error:.1f}), {taken.row} ({taken.accuracy:.1f} %) learns "
        "the least: take that."
    )


def cells(standing: Standing) -> list[str]:
    """One row under :data:`HEAD`."""
    metrics = [number(standing.values(key), 1) for key in ("accuracy", "macro_f1", "ece")]
    return [standing.row, *metrics, duration(standing.seconds), f"{standing.parameters:,}"]

"""Results over several seeds as people write them: mean ± standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the deviation of one value is 0."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def number(values: Sequence[float], digits: int) -> str:
    """``81.2``, with several values ``81.2 ± 0.4``, with none ``–``."""
    if not values:
        return "–"
    mean, deviation = mean_std(values)
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")


def duration(seconds: Sequence[float]) -> str:
    """Mean time, ± standard deviation where there are several: ``12.3 s``, ``4.1 ± 0.2 min``."""
    if not seconds:
        return "–"
    mean = mean_std(seconds)[0]
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if mean >= 2 * s), ("s", 1))
    return f"{number([s / size for s in seconds], 1)} {unit}"

"""The report on one classifier and labelled images, for Python: figures, a table, a page, a CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vlprompt.files import check_targets, write_text
from vlprompt.insight.outcome import Outcome
from vlprompt.reports import outcome_plots, plots
from vlprompt.reports.outcome import MATRIX, class_table, confusion, reliability
from vlprompt.reports.svg import PALETTE
from vlprompt.reports.training import Run, write_report

COLUMNS = ("image", "truth", "prediction", "probability")

NOTEBOOK = """<style>
.vlprompt-report { padding: 1em; background: #fff; color: #1c2126 }
.vlprompt-report :is(table, thead, tbody, tr, th, td) {
  background: none !important; color: inherit !important }
</style>"""
"""On paper of its own: figures have light colours, and a notebook's tables those of its theme."""


def check_predictions(path: Path, force: bool = False) -> None:
    """Refuse, before any work, a place for predictions that cannot be written, or holds anything else.

    A CSV file has no place for a mark of ours: its columns are it.

    Raises:
        UserError: see above.
    """
    header = ",".join(COLUMNS) + "\n"
    if path.is_file():
        with path.open("rb") as file:
            force = force or file.readline() == header.encode()
    check_targets(path, force=force)


@dataclass(frozen=True, eq=False)
class Report:
    """Where a classifier is right and wrong; a notebook shows it.

    Args:
        run: the classifier and its training.
        outcome: predictions beside the truth; None where there were no labelled images.
    """

    run: Run
    outcome: Outcome | None

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row a class: name, images, accuracy, precision, what it was most often mistaken for.

        ``pandas.DataFrame(report.table)`` takes it as it is.
        """
        return [row._asdict() for row in self.outcome.classes] if self.outcome else []

    @property
    def figures(self) -> dict[str, Figure]:
        """Figures of matplotlib by name: ``confusion`` of up to 20 classes, ``reliability``, ``loss``,
        ``val_accuracy``; what there is."""
        found: dict[str, Figure] = {}
        if self.outcome:
            if len(self.outcome.present) <= MATRIX:
                names = [self.outcome.classnames[k] for k in self.outcome.present]
                found["confusion"] = outcome_plots.confusion_matrix(self.outcome.confusion, names)
            found["reliability"] = outcome_plots.reliability(self.outcome.calibration)
        title, history = self.run.title, self.run.history
        for quantity in plots.QUANTITIES:
            if any(quantity in record for record in history):
                found[quantity] = plots.learning_curves({title: [history]}, {title: PALETTE[0]}, quantity)
        return found

    def save(
        self, path: str | Path, *, title: str = "", dataset: str = "", command: str = "", force: bool = False
    ) -> None:
        """Write the page, which needs no other file.

        Args:
            dataset, command: where the images come from, and what made this.
            force: write over the file whoever made it.

        Raises:
            UserError: the place cannot be written, or holds what this program did not make.
        """
        check_targets(Path(path), force=force)
        title = title or " on ".join(filter(None, [self.run.title, dataset]))
        write_report(
            Path(path), [self.run], title=title, dataset=dataset, command=command, outcome=self.outcome
        )

    def save_predictions(self, path: str | Path, *, force: bool = False) -> None:
        """Write a CSV file with a row an image: image, truth, prediction, probability.

        Raises:
            UserError: the place cannot be written, or holds anything but predictions.
        """
        check_predictions(Path(path), force)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.outcome.predictions if self.outcome else [])
        write_text(Path(path), text.getvalue())

    def __repr__(self) -> str:
        images = len(self.outcome.labels) if self.outcome else 0
        return f"Report on {images} images: {self.run.measured.get('test', {})}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        if self.outcome is None:
            return "<p>There were no labelled images.</p>"
        parts = [class_table(self.outcome), confusion(self.outcome), reliability(self.outcome)]
        return f'{NOTEBOOK}<div class="vlprompt-report">{"".join(parts)}</div>'

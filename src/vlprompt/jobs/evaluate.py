"""A tuned classifier measured on a data set whose classes may be fewer, or in another order."""

from __future__ import annotations

from pathlib import Path

from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import check_targets


def evaluate(
    classifier: PromptClassifier,
    dataset: Dataset,
    *,
    report: Path | None = None,
    predictions: Path | None = None,
    command: str = "",
    force: bool = False,
) -> dict[str, float]:
    """Metrics on the data set's test images, or on all where it has none; classes are matched by name.

    Args:
        report: page to write: where the classifier is right and wrong.
        predictions: CSV file to write: a row an image.
        command: what made this, for the page.
        force: write over both whoever made them.

    Raises:
        UserError: a class that the classifier does not know; a file that cannot be written.
    """
    check_targets(*filter(None, [report, predictions]), force=force)
    items = _matched(classifier, dataset)
    if not report and not predictions:
        return classifier.evaluate(items)
    found = classifier.report_on(items)
    if report:
        found.save(report, dataset=dataset.name, command=command, force=force)
    if predictions:
        found.save_predictions(predictions, force=force)
    return found.run.measured["test"]


def _matched(classifier: PromptClassifier, dataset: Dataset) -> list[Item]:
    """The images to measure on, with the classifier's labels."""
    items = list(dataset.test or (*dataset.train, *dataset.val))
    known = classifier.classnames_
    if dataset.classnames == known:
        return items
    unknown = [name for name in dataset.classnames if name not in known]
    if unknown:
        raise UserError(
            f"class '{unknown[0]}' of '{dataset.name}' is not one of the classifier's {len(known)} "
            "classes: rename its folder or leave it out"
        )
    position = [known.index(name) for name in dataset.classnames]
    return [item._replace(label=position[item.label]) for item in items]

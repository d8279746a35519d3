"""A tuned classifier measured on a data set whose classes may be fewer, or in another order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlprompt.data.copies import digest
from vlprompt.data.images import in_parallel
from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.files import check_targets
from vlprompt.progress import say


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

    Images that the classifier was trained on are left out, unless there are no others, and that is said.

    Args:
        report: page to write: where the classifier is right and wrong.
        predictions: CSV file to write: a row an image.
        command: what made this, for the page.
        force: write over both whoever made them.

    Raises:
        UserError: a class that the classifier does not know, or knows twice; a file that cannot be
            written.
    """
    if report:
        check_targets(report, force=force)
    if predictions:
        from vlprompt.reports.evaluation import check_predictions  # with matplotlib, which takes its time

        check_predictions(predictions, force)
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
    if dataset.classnames != known:
        position = [_position(name, known, dataset.name) for name in dataset.classnames]
        items = [item._replace(label=position[item.label]) for item in items]
    return _not_trained_on(classifier, dataset, items)


def _position(name: str, known: Sequence[str], dataset: str) -> int:
    if name not in known:
        raise UserError(
            f"class '{name}' of '{dataset}' is not one of the classifier's {len(known)} classes: rename its "
            "folder or leave it out"
        )
    if known.count(name) > 1:
        raise UserError(
            f"class '{name}' of '{dataset}' is the name of {known.count(name)} of the classifier's classes: "
            "give all of them in its order, or leave this one out"
        )
    return known.index(name)


def _not_trained_on(classifier: PromptClassifier, dataset: Dataset, items: list[Item]) -> list[Item]:
    """The images without those of the training, as far as these are known by their content."""
    seen = classifier.trained_on_
    if seen is None:
        if not dataset.test:
            say(f"images of '{dataset.name}' that the classifier may have been trained on are measured, too")
        return items
    known = in_parallel(digest, [item.image for item in items])
    left = [item for item, content in zip(items, known, strict=True) if not content or content not in seen]
    if items and not left:
        say(f"all {len(items)} images of '{dataset.name}' were trained on, and are measured all the same")
        return items
    if len(left) < len(items):
        count = len(items) - len(left)
        say(f"{count} of {len(items)} images of '{dataset.name}' are left out, as they were trained on")
    return left

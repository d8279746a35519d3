"""A tuned classifier measured on a data set whose classes may be fewer, or in another order."""

from __future__ import annotations

from vlprompt.dataset import Dataset
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier


def evaluate(classifier: PromptClassifier, dataset: Dataset) -> dict[str, float]:
    """Metrics on the data set's test images, or on all where it has none; classes are matched by name.

    Raises:
        UserError: a class that the classifier does not know.
    """
    items = dataset.test or (*dataset.train, *dataset.val)
    known = classifier.classnames_
    if dataset.classnames != known:
        unknown = [name for name in dataset.classnames if name not in known]
        if unknown:
            raise UserError(
                f"class '{unknown[0]}' of '{dataset.name}' is not one of the classifier's {len(known)} "
                "classes: rename its folder or leave it out"
            )
        position = [known.index(name) for name in dataset.classnames]
        items = [item._replace(label=position[item.label]) for item in items]
    return classifier.evaluate(items)

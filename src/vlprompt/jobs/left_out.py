"""What a method makes of classes that it was not trained on, measured on labelled images at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from vlprompt import data
from vlprompt.dataset import Dataset
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods.base import Method
from vlprompt.methods.templates import template_features
from vlprompt.training.frozen import image_features
from vlprompt.training.inputs import make_image_set
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions


def leave_out(classifier: PromptClassifier, dataset: Dataset) -> dict[str, float]:
    """A second classifier like this one learns every second class; then it meets the others, as CLIP does.

    Both tell the training images of the other classes apart, by these classes' names. Images are plain
    here, so that each is encoded once.

    Returns:
        Number of ``classes`` left out, accuracy in percent of ``new`` on them and of ``zero-shot``; empty
        where fewer than two classes would be learned or left out.
    """
    every = range(len(dataset.classnames))
    if len(every) < 4:
        return {}
    known, new = (data.of_classes(dataset, every[first::2]) for first in (0, 1))
    encoder = classifier.method_.encoder
    features = image_features(encoder, [item.image for item in new.train], classifier.verbose)  # (N, E)
    labels = torch.tensor([item.label for item in new.train], device=features.device)
    with torch.random.fork_rng():
        method = _trained(classifier, known)
    method.transfer(new.classnames)
    zero_shot = template_features(encoder, new.classnames, new.templates)  # (K, E)

    def accuracy(logits: Tensor) -> float:
        return 100 * float((logits.argmax(-1) == labels).double().mean())

    with torch.no_grad():
        found = accuracy(method.predictor()(features)), accuracy(method.logits(features, zero_shot))
    return {"classes": len(new.classnames), "new": found[0], "zero-shot": found[1]}


def _trained(classifier: PromptClassifier, dataset: Dataset) -> Method:
    """A method with the settings and the seed of a classifier's, trained on plain images."""
    of, options = classifier.method_, TrainOptions(seed=classifier.seed, device=classifier.device)
    torch.manual_seed(options.seed)
    method = type(of)(of.encoder, dataset.classnames, of.settings, dataset.templates)
    images = make_image_set(of.encoder, dataset.train, frozen=True, show=classifier.verbose)
    labels = images.labels.to(of.encoder.backbone.device)
    method.see(images.images(torch.arange(len(labels))), labels)
    fit(method, {"train": images}, options, show=False)
    return method.eval()

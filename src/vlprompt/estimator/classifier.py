"""The classifier that people use: a few labelled images in, predictions for classes by name out.

Follows scikit-learn's conventions: the constructor stores, ``fit`` computes, what was learned ends
in an underscore.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

import vlprompt
from vlprompt.data.copies import digest
from vlprompt.data.images import in_parallel
from vlprompt.dataset import Dataset, ImageSource, Item
from vlprompt.engine.backbones.load import shared_backbone
from vlprompt.engine.devices import pick_device
from vlprompt.engine.encoder import Encoder
from vlprompt.errors import UserError
from vlprompt.estimator import artifact, card, loading
from vlprompt.estimator.fitting import (
    VALIDATION,
    augmentation,
    check_classnames,
    check_parameters,
    check_reads,
    check_required,
    check_templates,
    choose_frozen_precision,
    make_splits,
    set_aside,
    settings_for,
)
from vlprompt.estimator.hub import HubMixin
from vlprompt.estimator.labels import find_classes, image_list, labelled_items, names_of
from vlprompt.estimator.prediction import predict_features, predict_logits
from vlprompt.estimator.shown import shown
from vlprompt.estimator.teacher import Teacher, unlabelled
from vlprompt.insight.explain import Explanation, explain
from vlprompt.insight.outcome import Outcome
from vlprompt.methods import get_method
from vlprompt.methods.base import Method
from vlprompt.training.frozen import image_features
from vlprompt.training.imageset import ImageSet
from vlprompt.training.inputs import Augment
from vlprompt.training.loop import fit
from vlprompt.training.options import TrainOptions
from vlprompt.training.stages import EpochRecord

if TYPE_CHECKING:
    from vlprompt.reports.evaluation import Report


class PromptClassifier(HubMixin, ClassifierMixin, BaseEstimator):
    """Prompt learning for image classification, as an estimator of scikit-learn.

    Images are paths, PIL images or arrays: as a list, a tuple, an array of objects, or one array
    (N, H, W) or (N, H, W, 3).

    Args:
        method: name of a method (``vlprompt methods`` lists them) or a file of your own.
        model: ``toy``, ``toy-deep``, a local folder or a hub id: of a CLIP, or of an image encoder alone, on
            which classes are a learned head.
        settings: changes to the method's published settings, by name.
        preset: name of another published setting of the method.
        templates: hand-crafted prompts, each with ``{}``.
        augment: ``auto`` is the published random crop and flip, and none for a built-in backbone, whose
            pictures are tiny; or ``crop+flip``, ``crop``, ``gentle``, ``none``.
        views: number of augmented views whose features are computed once, for methods without
            visual prompts; 0 draws fresh ones at every step, as published.
        seed, device, precision, clip_grad: see :class:`vlprompt.training.options.TrainOptions`.
        verbose: show progress.
        class_names: the name of every label as ``{label: name}``, or as a list where labels are 0, 1, ...
            By default a label is its own name.

    Attributes:
        classes_: (K,) labels as they were given to ``fit``; names after ``fit_dataset`` and ``set_classes``.
        classnames_: K class names, in the same order.
        history_: one record an epoch.
        measured_: what was measured, for the model card.
        trained_on_: digests of the images it was trained on, by which :func:`vlprompt.jobs.evaluate.evaluate`
            leaves these out; None where that is not known.
        method_: the trained method.
    """

    reads: ClassVar[Literal["images", "texts"]] = "images"

    def __init__(
        self,
        method: str = "coop",
        model: str = "toy",
        settings: dict[str, Any] | None = None,
        preset: str = "",
        templates: Sequence[str] = ("a photo of a {}.",),
        augment: Augment | Literal["auto"] = "auto",
        views: int = 0,
        seed: int = 1,
        device: str = "auto",
        precision: Literal["auto", "no", "bf16", "fp16"] = "auto",
        clip_grad: float | None = None,
        verbose: bool = False,
        class_names: Mapping[Any, str] | Sequence[str] | None = None,
    ):
        self.method = method
        self.model = model
        self.settings = settings
        self.preset = preset
        self.templates = templates
        self.augment = augment
        self.views = views
        self.seed = seed
        self.device = device
        self.precision = precision
        self.clip_grad = clip_grad
        self.verbose = verbose
        self.class_names = class_names

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # images, not rows of features
        return tags

    def _repr_html_(self) -> str:
        """What a notebook shows; ``repr`` has the parameters."""
        if not hasattr(self, "method_"):
            return shown(self.method, str(self.model))
        method, lengths = self.method_, self.method_.lengths
        known = (self.classnames_, self.measured_, self.history_, lengths)
        return shown(f"{method.title} ({self.method})", method.encoder.backbone.name, *known)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Before scikit-learn's own, a diagram of the parameters."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    # Training.

    def fit(
        self,
        X: Sequence[ImageSource],  # noqa: N803
        y: Sequence[Any] | None = None,
        X_val: Sequence[ImageSource] | None = None,  # noqa: N803
        y_val: Sequence[Any] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
    ) -> PromptClassifier:
        """Learn from images and labels (N,), which are class names or have them by ``class_names``.

        The accuracy on ``X_val`` is recorded in ``history_``. Without, a method that learns on validation
        images gets the last few of each class. A method that learns from a teacher takes images alone: the
        classes are the teacher's.
        ``on_epoch`` is called with the record of every epoch as it ends.

        Raises:
            UserError: see the message.
        """
        if y is None:
            return self._distill(X, on_epoch)
        if (X_val is None) != (y_val is None):
            raise UserError("validation images and labels go together: give both X_val and y_val, or neither")
        check_templates(self.templates)
        y = y if isinstance(y, np.ndarray) else list(y)  # an iterator would be empty the second time
        classes = find_classes(y)
        names = names_of(classes.tolist(), self.class_names)
        train, val = labelled_items(self._inputs(X), y, classes), list[Item]()
        if X_val is not None and y_val is not None:
            val = labelled_items(self._inputs(X_val), y_val, classes)
        dataset = Dataset(self.reads, names, train, val, templates=tuple(self.templates))
        self.fit_dataset(dataset, on_epoch=on_epoch, validate=bool(val))
        self.classes_ = classes
        return self

    def _distill(
        self,
        X: Sequence[ImageSource],  # noqa: N803
        on_epoch: Callable[[EpochRecord], None] | None,
    ) -> PromptClassifier:
        teacher = (self.settings or {}).get("teacher")
        if not teacher:
            raise UserError("images without labels need a teacher: give y, or a method and settings with one")
        return self.fit_dataset(unlabelled(X, teacher), on_epoch=on_epoch)

    def fit_dataset(
        self,
        dataset: Dataset,
        checkpoints: Path | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        validate: bool = False,
    ) -> PromptClassifier:
        """Learn from a data set's ``train`` (and ``val``) as they are.

        Args:
            checkpoints: folder for checkpoints; training goes on from what is there.
            on_epoch: called with the record of every epoch as it ends; what it raises ends the training.
            validate: record the accuracy on the validation images after some epochs.
        """
        if len(dataset.classnames) < 2:
            raise UserError(
                f"data set '{dataset.name}' has {len(dataset.classnames)} class: give two or more"
            )
        check_parameters(self.get_params())
        kind = get_method(self.method, files=True)
        with torch.random.fork_rng():  # the caller's own draws go on as if nothing had been trained
            self._start(kind, dataset)
            method = self.method_
            images = [item.image for item in dataset.train]
            choose_frozen_precision(method, self.precision, images, self.verbose)
            dataset = self._held_out(dataset)
            seen = [*dataset.train, *(dataset.val if method.needs_validation else ())]
            self.trained_on_: frozenset[str] | None = frozenset(in_parallel(digest, [i.image for i in seen]))
            splits = make_splits(method, dataset, self._augment, self.views, validate, self.verbose)
            if type(method).taught_by is not Method.taught_by:
                splits["train"] = self._taught(splits["train"], dataset)
            validation = splits.get("val") if validate else None
            if method.sees:
                features = image_features(method.encoder, [i.image for i in dataset.train], self.verbose)
                method.see(features, splits["train"].labels.to(features.device))
            if not method.needs_validation:
                splits.pop("val", None)
            show, options = self.verbose, self._options()
            self.history_ = fit(method, splits, options, checkpoints, show, on_epoch, validation)
        method.eval()
        return self

    def _held_out(self, dataset: Dataset) -> Dataset:
        """With images for validation, where the method learns on such."""
        if not self.method_.needs_validation or dataset.val:
            return dataset
        train, val = set_aside(dataset.train, VALIDATION)
        return dataclasses.replace(dataset, train=train, val=val)

    def _start(self, kind: type[Method], dataset: Dataset) -> None:
        """The untrained method for a data set's classes."""
        settings = settings_for(kind, dataset, kind.preset(self.preset) | (self.settings or {}))
        check_required(kind, settings)
        check_templates(dataset.templates)
        encoder = Encoder(shared_backbone(self.model, pick_device(self.device)))
        check_reads(encoder, dataset, self.reads)
        torch.manual_seed(self._options().seed)
        self.method_ = kind(encoder, dataset.classnames, settings, dataset.templates)
        self.classnames_ = tuple(dataset.classnames)
        self.classes_ = np.array(self.classnames_)
        self.measured_: dict[str, Any] = {}

    def _taught(self, split: ImageSet, dataset: Dataset) -> ImageSet:
        """With a teacher's answers; the method gets its class features."""
        method = self.method_
        teacher = Teacher(method.settings.teacher, dataset.classnames, dataset.templates, self.device)
        method.taught_by(teacher.classes())
        images, backbone = [item.image for item in dataset.train], method.encoder.backbone
        fixed = self._augment == "none"
        taught = teacher.answers(images, backbone, fixed, self.verbose)
        return dataclasses.replace(split, taught=taught, made=f"{split.made}, taught by {teacher.digest}")

    @property
    def _augment(self) -> Augment:
        return augmentation(self.augment, self.model)

    def _options(self) -> TrainOptions:
        return TrainOptions(
            seed=self.seed, device=self.device, precision=self.precision, clip_grad=self.clip_grad
        )

    # Prediction.

    def _logits(self, X: Sequence[ImageSource]) -> Tensor:  # noqa: N803
        """Logits (N, K) of images, in double precision."""
        check_is_fitted(self, "method_")
        return predict_logits(self.method_, self._inputs(X), self.verbose)

    def _inputs(self, X: Sequence[ImageSource]) -> list[ImageSource]:  # noqa: N803
        """N images, however they come."""
        return image_list(X)

    def decision_function(self, X: Sequence[ImageSource]) -> np.ndarray:  # noqa: N803
        """Logits (N, K) of images; for two classes (N,), the second's minus the first's.

        The shapes are scikit-learn's convention.
        """
        logits = self._logits(X).numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Sequence[ImageSource]) -> np.ndarray:  # noqa: N803
        """Probabilities (N, K) of images."""
        return self._logits(X).softmax(-1).numpy()

    def predict(self, X: Sequence[ImageSource]) -> np.ndarray:  # noqa: N803
        """Labels (N,) of images."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def evaluate(self, items: Sequence[Item]) -> dict[str, float]:
        """Accuracy, macro-F1, expected calibration error and number of labelled images."""
        if not items:
            raise UserError("there are no images to measure on: give one or more")
        return self.outcome(items).measured

    def outcome(self, items: Sequence[Item]) -> Outcome:
        """Predictions beside the truth on labelled images."""
        images = [item.image for item in items]
        labels = np.array([item.label for item in items], dtype=int)
        return Outcome(self.predict_proba(images), labels, self.classnames_, images)

    def report(self, X: Sequence[ImageSource], y: Sequence[Any]) -> Report:  # noqa: N803
        """Where the classifier is right and wrong: figures, a table and a page, of images and labels (N,).

        Raises:
            UserError: see the message.
        """
        check_is_fitted(self, "method_")
        return self.report_on(labelled_items(self._inputs(X), y, self.classes_))

    def report_on(self, items: Sequence[Item], seconds: float | None = None) -> Report:
        """The report on labelled images; on none it has what is known without.

        Args:
            seconds: time of the training, where it is known.
        """
        from vlprompt.reports.evaluation import Report  # with matplotlib, which few need
        from vlprompt.reports.training import Run

        outcome = self.outcome(items) if items else None
        measured = {"test": outcome.measured} if outcome else {}
        learned = (self.history_, self.method_.lengths, seconds, self.classnames_)
        return Report(Run(self.method_.title, self.method, self.seed, measured, *learned), outcome)

    def explain(self, image: ImageSource, class_name: str | None = None) -> Explanation:
        """Which parts of an image speak for a class; the predicted one by default.

        Raises:
            UserError: the class or the image cannot be used.
        """
        check_is_fitted(self, "method_")
        return explain(self.method_, image, class_name)

    def set_classes(
        self, classnames: Sequence[str], templates: Sequence[str] | None = None
    ) -> PromptClassifier:
        """Classify into other classes from now on, by their names alone.

        Args:
            templates: hand-crafted prompts that suit the new classes; those of before by default.

        Raises:
            UserError: the method learned something for each class that no other class can use.
        """
        check_is_fitted(self, "method_")
        names = check_classnames(classnames)
        if templates is not None:
            check_templates(templates)
        self.method_.transfer(names, templates)
        self.classnames_, self.classes_ = names, np.array(names)
        return self

    def add_classes(self, X: Sequence[ImageSource], y: Sequence[Any]) -> PromptClassifier:  # noqa: N803
        """Know further classes from labelled images (N,), without training.

        For backbones that do not read class names: the mean feature of a class's images joins the head.

        Raises:
            UserError: a label that is known already; the backbone reads class names.
        """
        check_is_fitted(self, "method_")
        fresh = find_classes(y)
        if known := set(map(str, fresh)) & set(self.classnames_):
            raise UserError(f"class '{min(known)}' is known already: give new classes only")
        items = labelled_items(self._inputs(X), y, fresh)
        names = names_of(fresh.tolist(), self.class_names)
        features = predict_features(self.method_, [item.image for item in items], self.verbose)
        self.method_.add_classes(features, torch.tensor([item.label for item in items]), names)
        self.classnames_, self.classes_ = (*self.classnames_, *names), np.concatenate([self.classes_, fresh])
        return self

    # Keeping.

    def save(self, folder: str | Path, measured: dict[str, Any] | None = None, force: bool = False) -> None:
        """Write the classifier as a folder.

        Args:
            measured: what was measured, for the model card, e.g. ``{"test": clf.evaluate(items)}``;
                ``None`` keeps what is in ``measured_``.
            force: replace the folder whoever made it.

        Raises:
            UserError: the folder cannot be written, or holds what this program did not make.
        """
        with artifact.folder_beside(Path(folder), force=force) as beside:
            self.save_into(beside, measured)

    def save_into(self, folder: Path, measured: dict[str, Any] | None = None) -> None:
        """Write the classifier's files into an existing folder."""
        check_is_fitted(self, "method_")
        self.measured_ = self.measured_ if measured is None else measured
        method = self.method_
        config = {
            "library": f"vlprompt {vlprompt.__version__}",
            "method": self.method,
            "reads": self.reads,
            "settings": dataclasses.asdict(method.settings),
            "preset": self.preset,
            "backbone": {
                key: getattr(method.encoder.backbone, key) for key in ("name", "revision", "digest")
            },
            "frozen_precision": "bf16" if method.encoder.frozen_dtype else "no",
            "classnames": list(self.classnames_),
            "labels": self.classes_.tolist(),
            "templates": list(method.templates),
            "options": dataclasses.asdict(self._options()) | {"augment": self.augment, "views": self.views},
            "measured": self.measured_,
        }
        if self.trained_on_ is not None:
            config["trained_on"] = sorted(self.trained_on_)
        artifact.write(
            folder,
            dict(method.named_parameters()),
            config,
            self.history_,
            card.write_card(method.title, config),
        )
        if method.lengths is not None:
            method.lengths.save(folder / "lengths.json")

    @classmethod
    def load(cls, folder: str | Path, model: str = "", device: str = "auto", method: str = "") -> Self:
        """Read a classifier; the same backbone is needed.

        Args:
            model: where the backbone is now, if it is not where it was.
            method: file of the method, where it was one of your own: code is never taken from the folder.

        Raises:
            UserError: damaged or missing files; the backbone is missing or is another.
        """
        if (read := artifact.reads(Path(folder))) and read != cls.reads:
            raise UserError(f"classifier '{folder}' reads {read}, and this is for {cls.reads}")
        found = loading.load(Path(folder), model, device, method)
        config = found.config
        given: dict[str, Any] = {
            "method": found.name,
            "model": found.model,
            "templates": tuple(config["templates"]),
        }
        given |= {key: config[key] for key in ("settings", "preset")}
        given |= config["options"] | {"device": device}
        own = cls._get_param_names()  # a classifier of texts has no templates and no augmentation
        self = cls(**{key: value for key, value in given.items() if key in own})
        self.method_ = found.method
        names, labels = config["classnames"], config.get("labels", config["classnames"])
        self.classnames_, self.classes_ = tuple(names), np.array(labels)
        if labels != names:
            self.class_names = dict(zip(labels, names, strict=True))
        self.measured_, self.history_ = config["measured"], found.history
        self.trained_on_ = frozenset(config["trained_on"]) if "trained_on" in config else None
        return self

"""What one visitor of ``vlprompt app`` does: names classes, looks at pictures, adds photos, trains."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import NamedTuple

from PIL import Image

from vlprompt.data.images import open_image
from vlprompt.dataset import Dataset, Item
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.methods import get_method
from vlprompt.training.stages import EpochRecord


class Photo(NamedTuple):
    """A labelled photo to learn from."""

    path: Path
    label: str


class Seen(NamedTuple):
    """What a classifier sees in a picture: probability of each class, and where it saw the likeliest."""

    probabilities: dict[str, float]
    heat: Image.Image | None


class _StopError(Exception):
    """The visitor stopped the training."""


@dataclass
class Session:
    """One visitor's classes, photos and classifiers.

    Args:
        zeroshot: the frozen model as it is.
        tuned: with learned prompts; ``None`` before the first training.
    """

    zeroshot: PromptClassifier
    tuned: PromptClassifier | None = None
    photos: list[Photo] = field(default_factory=list)
    stop: Event = field(default_factory=Event)

    def own(self) -> Session:
        """A session that starts as this one; only the frozen backbone is shared."""
        return Session(_own(self.zeroshot), _own(self.tuned) if self.tuned else None)

    @property
    def classnames(self) -> list[str]:
        """The classes in use."""
        return list(self.zeroshot.classnames_)

    def set_classes(self, names: Sequence[str]) -> None:
        """Use other classes from now on, without training.

        Raises:
            UserError: fewer than two, or the tuned prompts cannot be used with them.
        """
        names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
        if len(names) < 2:
            raise UserError("give the names of two or more classes, one a line")
        before = self.classnames
        try:
            for classifier in self._classifiers():
                classifier.set_classes(names)
        except UserError:
            for classifier in self._classifiers():
                classifier.set_classes(before)
            raise

    def look(self, picture: Path) -> list[Seen]:
        """What the zero-shot model and then, if there is one, the tuned one see in a picture.

        Raises:
            UserError: it cannot be read.
        """
        image = open_image(picture)
        return [_see(classifier, image) for classifier in self._classifiers()]

    def add(self, paths: Sequence[Path], label: str) -> None:
        """Add photos of one class to learn from.

        Raises:
            UserError: no label or photo, or one cannot be read; then none is added.
        """
        label = label.strip()
        if not label:
            raise UserError("name the class that these photos show")
        if not paths:
            raise UserError(f"give one or more photos of '{label}'")
        for path in paths:
            open_image(path)
        self.photos += [Photo(path, label) for path in paths]

    def train(self, method: str, epochs: int) -> Iterator[EpochRecord]:
        """Train on the photos: the record of every epoch as it ends; the tuned prompts are used after it.

        Raises:
            UserError: too few classes or photos, or the training failed.
        """
        names = list(dict.fromkeys(photo.label for photo in self.photos))
        if len(names) < 2:
            raise UserError(f"add photos of two or more classes: so far there are photos of {len(names)}")
        items = [Item(photo.path, names.index(photo.label)) for photo in self.photos]
        dataset = Dataset("photos", tuple(names), items, templates=tuple(self.zeroshot.templates))
        settings = dict.fromkeys(stage_epochs(method), epochs)
        base = self.zeroshot
        classifier = PromptClassifier(
            method, base.model, settings, templates=base.templates, device=base.device
        )
        self.stop.clear()
        if (yield from _fit(classifier, dataset, self.stop)):
            self.tuned = classifier
            self.zeroshot.set_classes(names)

    def save(self, folder: Path) -> Path:
        """The tuned classifier as a zip file of its folder, somewhere below ``folder``.

        Raises:
            UserError: nothing was trained.
        """
        if self.tuned is None:
            raise UserError("train first: the zero-shot model has nothing to save")
        room = Path(tempfile.mkdtemp(dir=folder))
        self.tuned.save(room / "classifier")
        return Path(shutil.make_archive(str(room / "classifier"), "zip", room, "classifier"))

    def _classifiers(self) -> list[PromptClassifier]:
        return [c for c in (self.zeroshot, self.tuned) if c is not None]


def start_session(classnames: Sequence[str], like: PromptClassifier) -> Session:
    """A session with the zero-shot classifier of some classes.

    Args:
        like: a classifier, tuned or not yet fitted, whose backbone, templates and device are taken.
    """
    tuned = like if hasattr(like, "method_") else None
    zeroshot = PromptClassifier("zeroshot", like.model, templates=like.templates, device=like.device)
    names = tuned.classnames_ if tuned else tuple(classnames)
    blank = Item(Image.new("RGB", (8, 8)), 0)  # nothing is learned of it
    zeroshot.fit_dataset(Dataset("zero-shot", names, [blank], templates=tuple(like.templates)))
    return Session(zeroshot, tuned)


def stage_epochs(method: str) -> list[str]:
    """The settings of a method that say how long its stages train."""
    return [
        f.name
        for f in fields(get_method(method, files=True).Settings)
        if f.name in ("search_epochs", "epochs")
    ]


def _see(classifier: PromptClassifier, image: Image.Image) -> Seen:
    row = classifier.predict_proba([image])[0]
    probabilities = dict(zip(classifier.classnames_, map(float, row), strict=True))
    try:
        return Seen(probabilities, classifier.explain(image).overlay())
    except UserError:  # some methods cannot be explained
        return Seen(probabilities, None)


def _own(classifier: PromptClassifier) -> PromptClassifier:
    """A copy whose classes can be changed; the frozen encoder is shared."""
    encoder = classifier.method_.encoder
    return copy.deepcopy(classifier, {id(encoder): encoder})


def _fit(classifier: PromptClassifier, dataset: Dataset, stop: Event) -> Generator[EpochRecord, None, bool]:
    """Records of a training in a thread of its own, as they come; returns whether it went to its end.

    ``stop``, or closing this generator, ends it after the epoch that it is in.
    """
    messages: Queue[EpochRecord | Exception | bool] = Queue()

    def on_epoch(record: EpochRecord) -> None:
        messages.put(record)
        if stop.is_set():
            raise _StopError

    def work() -> None:
        try:
            classifier.fit_dataset(dataset, on_epoch=on_epoch)
            messages.put(True)
        except _StopError:
            messages.put(False)
        except Exception as error:  # raised again in the thread that reads
            messages.put(error)

    thread = Thread(target=work, daemon=True, name="train")
    thread.start()
    try:
        while isinstance(message := messages.get(), dict):
            yield message
    finally:
        stop.set()
        thread.join()
    if isinstance(message, Exception):
        raise message
    return message

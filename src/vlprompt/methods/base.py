"""What every method is: parameters, prompts made of them, and a loss.

A method is one file in this folder with one subclass of :class:`Method`. It says what it learns in
``build``, how prompts follow from that in ``text_prompt`` and ``vision_prompt``, and, where it is
not plain cross-entropy, its ``loss``. Nothing is registered anywhere.

Shapes: B images, K classes, E joint width, n context length, D width of a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.attention import upcast
from vlprompt.engine.encoder import Encoder
from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Branch, Prompt
from vlprompt.errors import UserError
from vlprompt.methods.lengths import Lengths
from vlprompt.methods.schedules import warmed_cosine
from vlprompt.methods.templates import fill
from vlprompt.typed import BatchSize, Between, Epochs, Rate, check_fields

Losses = dict[str, Tensor]
"""Named scalars of one batch; ``"loss"`` is the one to minimise, the others are logged."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Published training settings common to the methods of the field."""

    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    """SGD as published, or AdamW: far fewer steps where there is little time; or Adam"""
    lr: Rate = 0.002
    """learning rate after one epoch of warm-up at 1e-5; cosine decay, stepped once an epoch"""
    epochs: Epochs = 50
    """passes over the training images"""
    batch_size: BatchSize = 32
    """images a step"""
    momentum: Annotated[float, Between(0, 1, "high")] = 0.9
    """momentum of SGD; the first beta of Adam and AdamW"""
    weight_decay: float = 5e-4
    """weight decay"""

    def __post_init__(self) -> None:
        check_fields(self)


class Batch(NamedTuple):
    """Images and their labels.

    ``images`` are pixels (B, 3, H, W), of a language model token ids (B, T) with -1 behind shorter texts,
    or, where no prompt changes them, features (B, E);
    ``frozen`` gives the image features (B, E) without prompts, where they are constants, and ``below``
    the hidden states that enter a vision layer below which nothing is prompted. ``other`` gives the images
    again, augmented anew where they are augmented; ``taught`` a teacher's logits (B, K) of these images.
    """

    images: Tensor
    labels: Tensor
    frozen: Callable[[], Tensor] | None = None
    below: Callable[[int], Tensor] | None = None
    other: Callable[[], Tensor] | None = None
    taught: Callable[[], Tensor] | None = None


class Outputs(NamedTuple):
    """What one batch gives: what a loss is made of."""

    batch: Batch
    images: Tensor
    """(B, E), L2-normalised"""
    classes: Tensor
    """(K, E), L2-normalised"""
    logits: Tensor
    """(B, K)"""


@dataclass(frozen=True)
class Objective:
    """One loss, the parameters that it moves, and how: the training loop takes these in turn.

    Args:
        loss: batch -> named losses.
        optimizer: owns the parameters.
        split: which images the batch is drawn from.
        scheduled: whether the learning rate follows the method's schedule.
        read: what is not moved and whose gradient the method reads in ``after_step``.
    """

    loss: Callable[[Batch], Losses]
    optimizer: torch.optim.Optimizer
    split: Literal["train", "val"] = "train"
    scheduled: bool = True
    read: tuple[nn.Parameter, ...] = ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this objective moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


@dataclass(frozen=True)
class Stage:
    """One stage of a method's training.

    Args:
        name: in histories and checkpoints; each stage of a method has its own.
        method: what is trained.
        enter: called when the stages before it have ended, e.g. to take over what they found.
    """

    name: str
    method: Method
    enter: Callable[[], None] = lambda: None


class _State(NamedTuple):
    """What a method is made of, by reference: nothing of it is changed in place after the training."""

    values: dict[str, Any]
    tensors: list[tuple[nn.Parameter, Tensor]]


class Method(nn.Module):
    """A way to adapt a frozen backbone to named classes.

    Args:
        encoder: the frozen backbone with prompts.
        classnames: K names; equal names are allowed and stay separate classes.
        settings: an instance of the method's ``Settings``; published values by default.
        templates: the data set's hand-crafted prompts, each with ``{}``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    learns: ClassVar[str]
    Settings: ClassVar[Any] = Settings
    needs: ClassVar[frozenset[Branch]] = frozenset({"text", "vision"})
    """Branches that it cannot do without. On a backbone with one branch classes are a learned head."""
    added: ClassVar[type[Method] | None] = None
    """What this method adds to the cross-entropy, for the prompts of any other (``dpl+kgcoop``)."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Other published settings, by name: what differs from the defaults."""
    smallest_crop: ClassVar[float] = 0.08
    """Smallest share of the area of a random crop that it was published with."""
    transductive: ClassVar[bool] = False
    """Whether it learns on images without labels, and so on those of the new classes too."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Settings that have no default: it cannot be trained without them."""
    retired: ClassVar[frozenset[str]] = frozenset()
    """Settings that older versions saved and that what was learned does not need."""
    unsaved: ClassVar[dict[str, Any]] = {}
    """Settings that older versions did not save, with the values that they then had."""
    for_new_classes: ClassVar[bool] = False
    """Whether it is there for classes that were not trained on: ``vlprompt fit`` then tries it on such."""
    _trained: _State | None = None
    """As it was trained, once it classifies into other classes."""

    def __init__(
        self,
        encoder: Encoder,
        classnames: Sequence[str],
        settings: Any = None,
        templates: Sequence[str] = ("a photo of a {}.",),
    ):
        super().__init__()
        self.encoder = encoder
        self.settings: Any = settings or self.Settings()
        self.templates = tuple(templates)
        self.classnames = tuple(classnames)
        self._check_branches()
        self.build()
        self.head: nn.Parameter | None
        """(K, E), where the backbone reads no class names and the method has no classifier of its own"""
        own = encoder.backbone.names_classes or type(self).forward is not Method.forward
        shape = len(self.classnames), encoder.backbone.joint_width
        device = encoder.backbone.device
        self.register_parameter("head", None if own else nn.Parameter(torch.zeros(shape, device=device)))
        self.set_classes(classnames)

    def _check_branches(self) -> None:
        """Raise unless the backbone has the branches that the method needs."""
        backbone = self.encoder.backbone
        if lacking := sorted(self.needs - backbone.branches):
            raise UserError(
                f"method '{self.name}' needs a {lacking[0]} branch, which backbone '{backbone.name}' does "
                "not have: use dpl or linear"
            )

    # What a method says.

    def build(self) -> None:
        """Create the parameters."""

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """One sequence a class; by default the first template with the name in it."""
        return self.encoder.tokenize([fill(self.templates[0], name) for name in classnames])

    def text_prompt(self) -> Prompt | None:
        """Prompt of the text branch, made of the parameters."""
        return None

    def vision_prompt(self) -> Prompt | None:
        """Prompt of the vision branch, made of the parameters; ``None`` leaves images alone."""
        return None

    def terms(self, outputs: Outputs) -> Losses:
        """Named terms beside the cross-entropy; add to ``super().terms(outputs)``."""
        return {}

    def total(self, terms: Losses) -> Tensor:
        """The scalar to minimise: the sum of the terms."""
        return torch.stack(list(terms.values())).sum()

    def see(self, features: Tensor, labels: Tensor) -> None:
        """Called before training where ``sees``: frozen image features (N, E) and labels (N,).

        A head starts from the class means.
        """
        if self.head is not None:
            self.head.data = class_means(features, labels, len(self.classnames))

    def taught_by(self, classes: Tensor) -> None:
        """Called before training where overridden: class features (K, T) of the teacher in the settings."""

    # What follows.

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Use these classes from now on; what is learned stays.

        Raises:
            UserError: other classes, where the backbone does not read their names.
        """
        if self.encoder.backbone.names_classes:
            self.sequences = self.rows(tuple(classnames))
        elif tuple(classnames) != self.classnames:
            raise UserError(
                f"backbone '{self.encoder.backbone.name}' reads no class names, so classes cannot be changed "
                "by name: give examples of new classes to add_classes"
            )
        self.classnames = tuple(classnames)

    def add_classes(self, features: Tensor, labels: Tensor, classnames: Sequence[str]) -> None:
        """Know further classes from examples, without training: their class means join the head.

        Args:
            features: (N, E) by :meth:`image_features`. labels: (N,), which of ``classnames`` each is.

        Raises:
            UserError: classes have no head here.
        """
        if self.head is None:
            raise UserError(
                f"method '{self.name}' with backbone '{self.encoder.backbone.name}' has no head that classes "
                "could be added to: use set_classes, or dpl with a backbone of one branch"
            )
        means = class_means(features, labels, len(classnames)).to(self.head)
        kept = F.normalize(self.head.detach(), dim=-1)
        self.head = nn.Parameter(torch.cat([kept, means]))
        self.classnames, self._trained = (*self.classnames, *classnames), None

    def transfer(self, classnames: Sequence[str], templates: Sequence[str] | None = None) -> None:
        """Classify into other classes: a view of what was trained, the same whatever was used before.

        All or nothing: where the classes are refused, those of before stay.

        Args:
            templates: those that the method was trained with by default.

        Raises:
            UserError: the method learned something for each class that no other class can use.
        """
        before = self._state()
        trained = self._trained or before
        try:
            self._restore(trained)
            self.templates = tuple(templates or self.templates)
            self.set_classes(tuple(classnames))
        except BaseException:
            self._restore(before)
            raise
        self._trained = trained

    def _state(self) -> _State:
        values = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return _State(values, [(p, p.data) for p in self.parameters()])

    def _restore(self, state: _State) -> None:
        for key in [key for key in vars(self) if not key.startswith("_") and key not in state.values]:
            delattr(self, key)
        vars(self).update(state.values)
        for parameter, data in state.tensors:
            parameter.data = data

    def loss(self, batch: Batch) -> Losses:
        """What to minimise, and what it is made of."""
        images, classes = self.image_features(batch.images, batch.below), self.class_features()
        logits = self.logits(images, classes)  # (B, K)
        outputs = Outputs(batch, images, classes, logits)
        terms = {"ce": F.cross_entropy(logits, batch.labels)} | self.terms(outputs)
        return {"loss": self.total(terms)} | terms

    def class_features(self) -> Tensor:
        """(K, E), L2-normalised."""
        if self.head is not None:
            return F.normalize(self.head, dim=-1)
        return self.encoder.encode_text(self.sequences, self.text_prompt())

    def image_features(self, images: Tensor, below: Callable[[int], Tensor] | None = None) -> Tensor:
        """(B, E), L2-normalised; features given are features returned. ``below`` as in :class:`Batch`."""
        if is_features(images):
            return images
        seeing = "vision" in self.encoder.backbone.branches
        prompt = self.vision_prompt() if seeing else self.text_prompt()
        return self.encoder.encode_input(images, prompt, below)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of pixels (B, 3, H, W) or image features (B, E)."""
        return self.logits(self.image_features(images), self.class_features())

    def frozen_images(self, batch: Batch) -> Tensor:
        """Image features of the frozen backbone (B, E); computed once where the pixels do not change."""
        if batch.frozen is not None:
            return batch.frozen()
        with torch.no_grad():
            return batch.images if is_features(batch.images) else self.encoder.encode_input(batch.images)

    def predicting_features(self) -> Tensor:
        """Class features (K, E) that predictions are made with."""
        return self.class_features()

    def logits(self, image_features: Tensor, class_features: Tensor) -> Tensor:
        """Scaled cosines: (B, E), (K, E) -> (B, K), in at least float32 under any autocast."""
        images, classes = upcast(image_features), upcast(class_features)
        with torch.autocast(images.device.type, enabled=False):
            return self.encoder.logit_scale.to(images.dtype) * images @ classes.mT

    def predictor(self) -> Callable[[Tensor], Tensor]:
        """A function from images to logits with all that does not depend on the image done once."""
        class_features = self.predicting_features()
        return lambda images: self.logits(self.image_features(images), class_features)

    @property
    def watched(self) -> tuple[nn.Parameter, ...]:
        """Parameters that are not moved and whose gradient ``after_step`` reads."""
        return ()

    def objectives(self) -> list[Objective]:
        """What a training step does, in order; nothing where there are no tokens to learn."""
        watched = self.watched
        moved = [p for p in self.parameters() if p.requires_grad and p.numel()]
        moved = [p for p in moved if all(p is not other for other in watched)]
        return [Objective(self.loss, self.optimizer(moved), read=watched)] if moved else []

    def optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of prompts with this method's settings."""
        s = self.settings
        if s.optimizer == "sgd":
            return torch.optim.SGD(parameters, s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[s.optimizer]
        return kind(parameters, s.lr, (s.momentum, 0.999), weight_decay=s.weight_decay)

    def learning_rate(self, at: float, epochs: int) -> float:
        """Learning rate ``at`` epochs after the start, a fraction within an epoch: the field's schedule."""
        return warmed_cosine(self.settings.lr, at, epochs)

    def backward(self, losses: Losses, backward: Callable[..., None]) -> None:
        """Put gradients on the parameters.

        Args:
            backward: what to call for ``Tensor.backward``; the loop's own (scaling, mean over processes).
        """
        backward(losses["loss"])

    def stages(self) -> list[Stage]:
        """What is trained, one after the other; the last is this method."""
        return [Stage("train", self)]

    @property
    def lengths(self) -> Lengths | None:
        """Context length of every layer, where the method has found or been given one for each."""
        return None

    @property
    def sees(self) -> bool:
        """Whether it starts from the training images' frozen features."""
        return self.head is not None or type(self).see is not Method.see

    @property
    def needs_validation(self) -> bool:
        """Whether it learns on validation images too."""
        return False

    @property
    def has_visual_prompts(self) -> bool:
        """Whether the features of what is classified depend on what is learned."""
        if "vision" in self.encoder.backbone.branches:
            return type(self).vision_prompt is not Method.vision_prompt
        return type(self).text_prompt is not Method.text_prompt

    @property
    def trains(self) -> bool:
        """Whether anything is learned in steps."""
        return any(p.requires_grad and p.numel() for p in self.parameters())

    def after_step(self) -> None:
        """Called when the parameters have been moved; gradients are still there."""

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Called when epoch ``epoch`` (from 0) of ``epochs`` has ended."""

    def check(self, validation: Callable[[], Iterator[Batch]], share: float) -> dict[str, Any]:
        """Called after every epoch where there are validation images, without gradients: what to log.

        Args:
            validation: gives all of them, batch after batch.
            share: of the training that is done.
        """
        return {}

    def finish(self) -> None:
        """Called when all stages have ended."""

    def epoch_record(self) -> dict[str, Any]:
        """What the log keeps of this epoch beside the losses; plain numbers and lists."""
        return {}

    @classmethod
    def settings_for(cls, shots: int | None, **changes: Any) -> Any:
        """Published settings for a number of shots, with changes."""
        return cls.Settings(**changes)

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """Values of a named preset; "" is none and changes nothing.

        Raises:
            UserError: no such preset.
        """
        if not name:
            return {}
        if name not in cls.presets:
            there = ", ".join(cls.presets) or "none"
            raise UserError(f"method '{cls.name}' has no preset '{name}': there is {there}")
        return cls.presets[name]

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Set what was learned, by parameter name.

        Raises:
            UserError: other names or shapes than the method's.
        """
        own = dict(self.named_parameters())
        if own.keys() != tensors.keys() or not all(_alike(own[k], tensors[k]) for k in own):
            raise UserError(
                f"these prompts do not fit method '{self.name}' with its settings and classes: "
                "they were damaged, or made by another version"
            )
        for name, parameter in own.items():
            parameter.data = tensors[name].to(parameter.device)


def is_features(inputs: Tensor) -> bool:
    """Whether these are features (B, E), no pixels and no token ids."""
    return inputs.ndim == 2 and inputs.is_floating_point()


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean feature of each class, normalised: (N, E), labels (N,) -> (K, E)."""
    members = F.one_hot(labels, classes).to(features)  # (N, K)
    return F.normalize(members.T @ features, dim=-1)


def _alike(own: Tensor, other: Tensor) -> bool:
    """The same type and shape; what has no rows yet takes any number of them."""
    rows = 0 if own.numel() or not own.ndim else 1
    return own.dtype == other.dtype and own.ndim == other.ndim and own.shape[rows:] == other.shape[rows:]

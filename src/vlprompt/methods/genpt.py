"""GenPT, Generalizable Prompt Tuning (arXiv 2410.03189): soft and hand-crafted prompts as two views.

From the paper's abstract: hand-crafted prompts generalise to unseen classes, soft prompts fit the seen
ones; both are views of the text modality whose mutual information is maximised, and a class-wise
augmentation from the visual modality makes the prompts more expressive. Its equations were not at hand:
the InfoNCE bound, the shift of class features and the mixed prediction below are this project's reading
of it. Every piece has its switch; ``benchmarks/genpt_readings.py`` has the readings that did less.

Shapes: K classes, M images a class, E joint width, D text width, n context length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlprompt.engine.devices import moved
from vlprompt.engine.packing import Row
from vlprompt.engine.prompt import Prompt
from vlprompt.methods import coop
from vlprompt.methods.base import Losses, Method, Outputs
from vlprompt.methods.coop import CoOp
from vlprompt.methods.rows import learnable_rows
from vlprompt.methods.templates import template_features
from vlprompt.typed import Between, Length, Positive, Share

Weight = Annotated[float, Between(0, 1e6)]


@dataclass(frozen=True, kw_only=True)
class Added:
    """What the two views add to the settings of any prompts."""

    mutual_information: float = 0.3
    """weight of the mutual information between soft and hand-crafted class features; 0 leaves it out"""
    tau: Positive = 0.07
    """temperature of the mutual information"""
    learn_tau: bool = False
    """whether the temperature is learned"""
    view_mix: Share = 0.9
    """share of the soft view in the class features that predict; 1 is the soft prompts alone"""
    n_templates: int = 0
    """number of templates in the hand-crafted view; 0 takes all"""
    augmentation: Literal["feature", "none"] = "feature"
    """class-wise augmentation: what the images of the trained classes show shifts the feature of every class,
    or nothing"""
    shift_decay: Weight = 0.03
    """weight of the squared size of the shift of features"""
    doubt: Weight = 0.3
    """how little of the shift a class without images gets where its name shares little with the trained ones;
    0 predicts it as if it had been trained"""


class TwoViews(Method):
    """w_s[k] = normalise(t_k + M^T (w_h[k] - mean_j w_h[j])), with t_k the class feature of any soft prompts.

    Cross-entropy of w_s + weight * L_MI of t and w_h + decay * |M|^2. M (E, E) is fitted to the images of the
    trained classes, j runs over these. A class without images keeps its hand-crafted prompts, shifted by what
    its name has in common with theirs.
    """

    Settings = Added
    unsaved: ClassVar[dict[str, Any]] = {"augmentation": "none"}
    _text: Tensor | None = None

    def build(self) -> None:
        """The temperature, where it is learned, and what shifts each class's feature."""
        super().build()
        if self.settings.learn_tau:
            log_tau = torch.tensor(math.log(self.settings.tau), device=self.encoder.backbone.device)
            self.log_tau = nn.Parameter(log_tau)
        if self.settings.augmentation == "feature":
            self._build_shift()

    def _build_shift(self) -> None:
        """The map M (E, E), zero; of the trained classes the mean feature (E,), the map (E, E) to what their
        names explain of a name, and which (K,) they are."""
        width, device = self.encoder.backbone.joint_width, self.encoder.backbone.device
        self.feature_shift = nn.Parameter(torch.zeros(width, width, device=device))
        self.centre = nn.Parameter(torch.zeros(width, device=device), requires_grad=False)
        self.explains = nn.Parameter(torch.zeros(width, width, device=device), requires_grad=False)
        self.trained = nn.Parameter(torch.ones(len(self.classnames), device=device), requires_grad=False)
        if hasattr(self, "handcrafted"):  # when DPL starts afresh with the lengths that it found
            self._keep_names()

    @torch.no_grad()
    def _keep_names(self) -> None:
        """Ridge regression of a name on those of the trained classes D (K, E): C (C + r I)^-1, C = D^T D."""
        self.centre.copy_(self.handcrafted.mean(0))
        apart = (self.handcrafted - self.centre).double()  # (K, E)
        together, ridge = apart.mT @ apart, self.settings.doubt * apart.square().sum(-1).mean()
        if ridge > 0:
            damped = together + ridge * torch.eye(len(together), device=apart.device)
            self.explains.copy_(torch.linalg.solve(damped, together))

    def set_classes(self, classnames: Sequence[str]) -> None:
        """The hand-crafted view of the new classes, the mean over the templates; they have no images."""
        first = not hasattr(self, "handcrafted")
        templates = self.templates[: self.settings.n_templates or None]
        self.handcrafted = template_features(self.encoder, classnames, templates)  # (K, E)
        if self.settings.augmentation == "feature" and first:
            self._keep_names()
        elif self.settings.augmentation == "feature" and tuple(classnames) != self.classnames:
            old = dict(zip(self.classnames, self.trained.tolist(), strict=True))
            stays = [old.get(name, 0.0) for name in classnames]
            self.trained.data = torch.tensor(stays, device=self.trained.device)
        super().set_classes(classnames)

    def class_features(self) -> Tensor:
        """(K, E), L2-normalised, shifted where features are."""
        text = super().class_features()
        if self.settings.mutual_information:
            self._text = text  # until the loss takes it
        return self.shifted(text)

    def shifted(self, features: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """Class features (K, E) with what the trained classes' images say, or a share (K, 1) of it."""
        if self.settings.augmentation != "feature":
            return features
        shift = (self.handcrafted - self.centre) @ self.feature_shift  # (K, E)
        return F.normalize(features + share * shift, dim=-1)

    def predicting_features(self) -> Tensor:
        """normalise(beta * t + (1 - beta) * w_h), (K, E); w_h for new ones where features are shifted."""
        beta, text = self.settings.view_mix, super().class_features()
        if self.settings.augmentation != "feature" or not self.settings.doubt:
            return self.shifted(F.normalize(beta * text + (1 - beta) * self.handcrafted, dim=-1))
        beta = beta * self.trained[:, None]  # (K, 1)
        both = F.normalize(beta * text + (1 - beta) * self.handcrafted, dim=-1)
        return self.shifted(both, self.explained())

    def explained(self) -> Tensor:
        """Share (K, 1) of each name that the trained classes' names explain; 1 for these."""
        apart = self.handcrafted - self.centre  # (K, E)
        share = (apart @ self.explains * apart).sum(-1) / apart.square().sum(-1).clamp(min=1e-12)
        return torch.where(self.trained > 0, 1.0, share)[:, None]

    def terms(self, outputs: Outputs) -> Losses:
        """L_MI, the bound on the mutual information in nats, which is only logged, and decay * |M|^2."""
        terms, s = super().terms(outputs), self.settings
        if s.mutual_information:
            tau = self.log_tau.exp() if s.learn_tau else s.tau
            loss = self.view_loss(outputs, tau)
            nats = math.log(len(self.handcrafted)) - loss.detach()
            terms |= {"mi": s.mutual_information * loss, "mi_nats": nats}
        if s.augmentation == "feature" and s.shift_decay:
            terms["shift"] = s.shift_decay * self.feature_shift.square().sum()
        return terms

    def view_loss(self, outputs: Outputs, tau: Tensor | float) -> Tensor:
        """L_MI of what is not shifted yet: the views are texts, and what images show is added to both."""
        text, self._text = self._text, None
        assert text is not None
        return info_nce(text, self.handcrafted, tau)

    def total(self, terms: Losses) -> Tensor:
        """All terms but the logged bound."""
        return super().total({name: value for name, value in terms.items() if name != "mi_nats"})


def info_nce(soft: Tensor, handcrafted: Tensor, tau: Tensor | float) -> Tensor:
    """L_MI of two views (K, E), in both directions; I(s; h) >= log K - L_MI (arXiv 1807.03748, eq. 5)."""
    scores = soft @ handcrafted.mT / tau  # (K, K)
    same = torch.arange(len(soft), device=soft.device)
    return (F.cross_entropy(scores, same) + F.cross_entropy(scores.mT, same)) / 2


@dataclass(frozen=True, kw_only=True)
class Settings(Added, coop.Settings):
    """GenPT."""

    ctx_init: str = "a photo of a"
    """words whose embeddings start the context; empty for n_ctx random tokens"""
    n_ctx: Length = 4
    """context length where ctx_init is empty"""
    mutual_information: float = 3.0
    """weight of the mutual information between soft and hand-crafted class features; 0 leaves it out"""
    augmentation: Literal["feature", "context", "none"] = "feature"  # type: ignore[assignment]
    """class-wise augmentation: what the images of the trained classes show shifts the feature of every class,
    or the context of every class, or nothing"""
    text_share: Share = 0.8
    """part of the classes whose context is in training shifted from their text, as without images"""

    def __post_init__(self) -> None:
        if isinstance(self.augmentation, bool):  # as 0.1.0 saved it
            object.__setattr__(self, "augmentation", "context" if self.augmentation else "none")
        super().__post_init__()


class GenPT(TwoViews, CoOp):
    """GenPT: the two views and the shift of :class:`TwoViews`, with t_k the text of a learned context."""

    name, title, paper, year = "genpt", "GenPT", "2410.03189", 2024
    learns = "text context, and the shift of class features by what the images show"
    Settings = Settings
    added = TwoViews
    for_new_classes = True

    def build(self) -> None:
        """Context (n, D), and what shifts each class's feature, or its context."""
        super().build()
        if self.settings.augmentation == "context":
            self._build_context_shift()

    @property
    def sees(self) -> bool:
        """Only the shift of contexts is made of images; no other need be encoded before training."""
        return self.settings.augmentation == "context"

    def see(self, features: Tensor, labels: Tensor) -> None:
        """What the shift of contexts needs to know of the trained classes: features (N, E), labels (N,)."""
        if self.settings.augmentation == "context":
            self._keep_images(features, labels)

    def set_classes(self, classnames: Sequence[str]) -> None:
        """New classes have no images: their text stands for these."""
        old = dict(zip(self.classnames, range(len(self.classnames)), strict=True))
        changed = tuple(classnames) != self.classnames
        super().set_classes(classnames)
        if self.settings.augmentation == "context" and changed:
            from_text = self.from_text()
            rows = [self.seen[old[n]] if n in old else from_text[k] for k, n in enumerate(self.classnames)]
            self.seen.data = torch.stack(rows)

    # The shift of contexts, ctx_k = ctx + h(u_k): the default of 0.1.0.

    def _build_context_shift(self) -> None:
        """The network h: E -> E / 16 -> D, and what it sees of each class, (K, E)."""
        backbone = self.encoder.backbone
        width, hidden = backbone.joint_width, max(backbone.joint_width // 16, 1)
        layers = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, backbone.text_width)
        self.shift = nn.Sequential(*layers).to(backbone.device)
        nn.init.zeros_(layers[2].weight)  # starts as no shift
        nn.init.zeros_(layers[2].bias)
        seen = torch.zeros(len(self.classnames), width, device=backbone.device)
        self.seen = nn.Parameter(seen, requires_grad=False)
        self.gap = nn.Parameter(torch.zeros(width, device=backbone.device), requires_grad=False)
        self.images: Tensor | None = None
        self.has_image: Tensor | None = None

    def _keep_images(self, features: Tensor, labels: Tensor) -> None:
        """The training images' features (N, E): padded (K, M, E), and their mean (K, E)."""
        members = [features[labels == k].float() for k in range(len(self.classnames))]
        self.images = nn.utils.rnn.pad_sequence(members, batch_first=True)  # (K, M, E)
        counts = torch.tensor([len(m) for m in members], device=features.device)  # (K,)
        self.has_image = torch.arange(self.images.shape[1], device=features.device) < counts[:, None]
        means = torch.stack([m.mean(0) for m in members])  # (K, E)
        self.seen.copy_(F.normalize(means, dim=-1))
        self.gap.copy_((means - self.handcrafted).mean(0))

    def rows(self, classnames: Sequence[str]) -> list[Row]:
        """[start][context][class name][.][end]; a context of each class's own where contexts are shifted."""
        if self.settings.augmentation != "context":
            return super().rows(classnames)
        words, position = self.words, self.settings.position
        return learnable_rows(self.encoder, classnames, self.n_ctx, words, position, class_specific=True)

    def text_prompt(self) -> Prompt:
        """The context, or each class's: (K * n, D)."""
        if self.settings.augmentation != "context":
            return super().text_prompt()
        shift = self.shift(self.conditions())  # (K, D)
        return Prompt(context=(self.ctx + shift[:, None]).flatten(0, 1))

    def conditions(self) -> Tensor:
        """u_k, (K, E): in training drawn anew at each step, afterwards the mean of each class."""
        if not self.training or self.images is None or self.has_image is None:
            return self.seen
        drawn = torch.empty(self.has_image.shape).exponential_()
        lambdas = moved(drawn, self.images.device) * self.has_image
        lambdas = lambdas / lambdas.sum(-1, keepdim=True)  # Dirichlet(1, ..., 1), (K, M)
        mixed = F.normalize((lambdas[..., None] * self.images).sum(1), dim=-1)  # (K, E)
        by_text = moved(torch.rand(len(mixed)), mixed.device) < self.settings.text_share
        return torch.where(by_text[:, None], self.from_text(), mixed)

    def from_text(self) -> Tensor:
        """What stands for a class's images where there are none: normalise(w_h + gap), (K, E)."""
        return F.normalize(self.handcrafted + self.gap, dim=-1)

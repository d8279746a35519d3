"""A method of your own is one file: vlprompt fit DATA --method examples/add_your_own_method.py --out OUT

Prompt distribution learning, in short (after ProDA, arXiv 2205.03340): several contexts give every class a
distribution of features. Shapes: P contexts of n tokens, D text width, B images, K classes, E joint width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vlprompt.engine.prompt import Prompt
from vlprompt.methods import base
from vlprompt.methods.rows import learnable_rows, random_tokens


@dataclass(frozen=True, kw_only=True)
class Settings(base.Settings):
    n_ctx: int = 4
    n_prompts: int = 8
    """contexts, whose class features make the distribution"""  # this is the help of the flag --n-prompts


class PromptDistribution(base.Method):
    name, title, paper, year = "distribution", "Prompt distribution", "2205.03340", 2022
    learns = "several text contexts"
    Settings = Settings

    def build(self):
        shape, width = (self.settings.n_prompts, self.settings.n_ctx), self.encoder.backbone.text_width
        tokens = random_tokens(shape[0] * shape[1], width, self.encoder)
        self.ctx = nn.Parameter(tokens.detach().unflatten(0, shape))  # (P, n, D)

    def rows(self, classnames):
        return learnable_rows(self.encoder, classnames, self.settings.n_ctx)

    def samples(self):
        return self.encoder.encode_text(self.sequences, Prompt(context=self.ctx))  # (P, K, E)

    def class_features(self):
        return self.samples().mean(0)  # (K, E)

    def loss(self, batch):
        images = self.image_features(batch.images)  # (B, E)
        logits = torch.stack([self.logits(images, classes) for classes in self.samples()])  # (P, B, K)
        against = logits - logits.gather(2, batch.labels.expand(len(logits), -1)[..., None])
        spread = against.var(0, correction=0) / 2  # (B, K); an upper bound of the expected cross-entropy
        return {"loss": F.cross_entropy(logits.mean(0) + spread, batch.labels)}

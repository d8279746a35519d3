"""MetaCLIP 2 (arXiv 2507.22062), as ``transformers.MetaClip2Model``: a CLIP with another tokenizer."""

from __future__ import annotations

from transformers import MetaClip2Model

from vlprompt.engine.backbones.clip import CLIPBackbone


class MetaClip2Backbone(CLIPBackbone):
    """A frozen MetaCLIP 2; arguments as :class:`Backbone`, the model a ``MetaClip2Model``."""

    Model = MetaClip2Model

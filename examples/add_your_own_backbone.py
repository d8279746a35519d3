"""A backbone family of your own is one file. This one is also the command vlprompt, with that family known:

    python add_your_own_backbone.py fit PHOTOS --model google/owlvit-base-patch32 --n-ctx 4 --out OUT

OWL-ViT (arXiv 2205.06230): two branches as CLIP's, trained further to find things in pictures. What a family
must say is vlprompt.engine.backbones.protocol.Backbone; here all is as in CLIP but the name of one module.
"""

import sys

from transformers import OwlViTModel

from vlprompt.cli.main import main
from vlprompt.engine.backbones.clip import CLIPBackbone
from vlprompt.engine.backbones.load import FAMILIES


class OwlViTBackbone(CLIPBackbone):
    Model = OwlViTModel

    def enter_vision(self, hidden):
        return self.model.vision_model.pre_layernorm(hidden)  # (B, T, D)


FAMILIES["owlvit"] = OwlViTBackbone  # the "model_type" of its config.json

if __name__ == "__main__":
    sys.exit(main())

"""A search space of your own: vlprompt fit DATA --method examples/add_your_own_search_space.py --out OUT

Here: in which layers of both branches does a prompt of fixed length stand? DPL's search closes tokens one by
one; this one closes a layer's tokens together, so a layer ends with all of them or with none. All else is
DPL's: --text-max and --vision-max are the fixed lengths, --budget says how many tokens may stay.
"""

import torch

from vlprompt.methods.dpl.dpl import DPL


class Layers(DPL):
    name, title, paper, year = "layers", "DPL over layers", "2501.00457", 2025
    learns = "in which layers of both branches a prompt of fixed length stands, and the prompts"

    def portions(self, longest):
        """Tokens that open and close together have one number: (L, C), here the number of their layer."""
        layers = torch.arange(len(longest), device=longest.device)[:, None]  # (L, 1)
        return layers.expand(-1, int(longest.max()))

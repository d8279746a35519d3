"""The command ``vlprompt methods``."""

from __future__ import annotations

from vlprompt.cli.console import show_rows


def methods(model: str = "toy", json: bool = False) -> None:
    """List the methods: paper, year, what is learned, number of parameters.

    Args:
        model: backbone for which parameters are counted.
        json: print a JSON list.
    """
    from vlprompt.engine.backbones.load import load_backbone
    from vlprompt.engine.encoder import Encoder
    from vlprompt.methods import all_methods

    encoder = Encoder(load_backbone(model))
    rows = []
    for name, kind in all_methods().items():
        method = kind(encoder, ("cat", "dog"))
        stage = method.stages()[0].method
        count = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        rows.append(
            {
                "method": name,
                "title": kind.title,
                "year": kind.year,
                "paper": f"arXiv {kind.paper}" if kind.paper[0].isdigit() else kind.paper,
                "learns": kind.learns,
                "parameters": count,
                "presets": ", ".join(kind.presets),
            }
        )
    show_rows(rows, "json" if json else "table")

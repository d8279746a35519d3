"""What a notebook shows of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vlprompt.methods.lengths import Lengths

NAMED = 12
"""Classes that are named."""


def shown(
    method: str,
    backbone: str,
    classnames: Sequence[str] = (),
    measured: Mapping[str, Mapping[str, float]] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    lengths: Lengths | None = None,
) -> str:
    """A classifier as HTML: method, backbone, classes, accuracy, context lengths.

    Args:
        classnames: none where it is not trained.
        measured: as in ``measured_``; the last accuracy on validation images stands in where it is empty.
        history: as in ``history_``.
    """
    rows = {"method": method, "backbone": backbone}
    if not classnames:
        rows["classes"] = "not trained yet"
    else:
        more = ", …" if len(classnames) > NAMED else ""
        rows["classes"] = f"{len(classnames)}: {', '.join(classnames[:NAMED])}{more}"
    looks = [record["val_accuracy"] for record in history if "val_accuracy" in record]
    for split, metrics in (measured or {}).items():
        rows[f"accuracy ({split})"] = f"{metrics['accuracy']:.1f} % of {int(metrics['n']):,} images"
    if not measured and looks:
        rows["accuracy (validation)"] = f"{looks[-1]:.1f} %"
    body = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return f"<table>{body}</table>" + (lengths._repr_html_() if lengths else "")

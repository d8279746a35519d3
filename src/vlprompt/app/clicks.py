"""What clicks on the page of ``vlprompt app`` do: each function takes the visitor's session first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from vlprompt.app.session import Photo, Seen, Session, stage_epochs
from vlprompt.errors import UserError
from vlprompt.methods import all_methods
from vlprompt.training.stages import EpochRecord

REDRAW = 0.2
"""Seconds between two drawings of the training's progress."""
HINT = "Add photos of two or more classes, three or more of each, then train."


@contextmanager
def _told() -> Iterator[None]:
    """Shows a :class:`UserError` to the visitor."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), title="That did not work", print_exception=False) from error


def begin(first: Session) -> list[Any]:
    """A new visitor: session, class names and labels to choose from."""
    own = first.own()
    return [own, "\n".join(own.classnames), gr.Dropdown(choices=own.classnames)]


def rename(session: Session, names: str) -> list[Any]:
    """Use the class names in the box, one a line: what is in the box then, and labels to choose from."""
    with _told():
        session.set_classes(names.splitlines())
    return ["\n".join(session.classnames), gr.Dropdown(choices=_labels(session))]


def look(session: Session, picture: str | None) -> list[Any]:
    """Bars and heat maps of both classifiers for a picture."""
    if picture is None:
        return _bars(None) + _bars(None)
    with _told():
        seen = session.look(Path(picture))
    return _bars(seen[0]) + _bars(seen[1] if len(seen) > 1 else None)


def _bars(seen: Seen | None) -> list[Any]:
    """Values of a label and a heat map."""
    if seen is None:
        return [None, gr.Image(value=None, visible=False)]
    return [seen.probabilities, gr.Image(value=seen.heat, visible=seen.heat is not None)]


def add(session: Session, label: str | None, files: Sequence[str] | None) -> list[Any]:
    """Add photos: the gallery, the labels to choose from, and an empty box for files."""
    with _told():
        session.add([Path(file) for file in files or ()], label or "")
    return [_gallery(session.photos), gr.Dropdown(choices=_labels(session)), None]


def clear(session: Session) -> list[Any]:
    """Forget the photos: the empty gallery."""
    session.photos.clear()
    return _gallery(session.photos)


def _gallery(photos: Sequence[Photo]) -> list[Any]:
    return [(str(photo.path), photo.label) for photo in photos]


def _labels(session: Session) -> list[str]:
    return list(dict.fromkeys([*session.classnames, *(photo.label for photo in session.photos)]))


def halt(session: Session) -> None:
    """End the training after the epoch that it is in."""
    session.stop.set()


def keep(session: Session, folder: Path) -> gr.DownloadButton:
    """Save the tuned classifier: a button that downloads it."""
    with _told():
        return gr.DownloadButton(value=str(session.save(folder)), visible=True)


def train(session: Session, method: str, epochs: int) -> Iterator[str]:
    """Train on the photos; the progress as it is."""
    total = epochs * len(stage_epochs(method))
    records: list[EpochRecord] = []
    drawn, before = 0.0, session.tuned
    with _told():
        yield progress_html("Training starts …", records, total)
        try:
            for record in session.train(method, epochs):
                records.append(record)
                if time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    yield progress_html(_now(record, len(records), total), records, total)
        except UserError:
            yield progress_html(HINT, [], total)
            raise
    if session.tuned is before:
        text = f"Stopped after {len(records)} of {total} epochs; nothing has changed."
        yield progress_html(text, records, total)
        return
    text = f"Done: {all_methods()[method].title}, {len(records)} epochs, {len(session.photos)} photos"
    losses = f", loss {records[0]['loss']:.3f} → {records[-1]['loss']:.3f}." if records else "."
    yield progress_html(text + losses, records, max(len(records), 1))


def _now(record: EpochRecord, done: int, total: int) -> str:
    stage = "searching" if record["stage"] == "search" else "training"
    return f"Epoch {done} of {total} ({stage}), loss {record['loss']:.3f}"


def progress_html(text: str, records: Sequence[EpochRecord], total: int) -> str:
    """A line of text, a bar and the curve of the loss, as HTML."""
    losses = [record["loss"] for record in records]
    top, last = max(losses, default=1.0) or 1.0, max(total - 1, 1)
    points = " ".join(f"{100 * i / last:.2f},{30 - 30 * loss / top:.2f}" for i, loss in enumerate(losses))
    return (
        f'<div id="progress-text">{text}</div>'
        f'<div role="progressbar" aria-valuenow="{len(records)}" aria-valuemax="{total}" class="bar">'
        f'<div style="width: {100 * len(records) / total:.1f}%"></div></div>'
        f'<svg viewBox="0 -1 100 32" preserveAspectRatio="none" role="img" aria-label="loss by epoch">'
        f'<polyline vector-effect="non-scaling-stroke" points="{points}"/></svg>'
    )

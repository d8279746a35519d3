"""The page of ``vlprompt app``: what is on it, and what a click does with the visitor's session."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlprompt.app.session import Photo, Seen, Session, stage_epochs
from vlprompt.errors import UserError
from vlprompt.methods import all_methods
from vlprompt.training.loop import Record

SHOWN = 10
"""Classes with a bar."""
METHOD = "coop"
"""Chosen at first: quick, and content with a few photos."""
REDRAW = 0.2
"""Seconds between two drawings of the training's progress."""
MAX_FILE = "64mb"
SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"]
FONT = ["system-ui", "sans-serif"]
STYLE = """
#picture img, #zeroshot-heat img, #tuned-heat img {width: 100%; height: 100%; object-fit: contain}
#progress .bar {height: 0.6em; margin: 0.5em 0; border-radius: 0.3em; background: var(--border-color-primary)}
#progress .bar div {height: 100%; border-radius: 0.3em; background: var(--color-accent)}
#progress svg {width: 100%; height: 7em}
#progress polyline {fill: none; stroke: var(--color-accent); stroke-width: 2}
"""
HINT = "Add photos of two or more classes, three or more of each, then train."
POLICY = (
    b"default-src 'self' data: blob:; "
    b"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'"
)
"""What the browser may load: nothing from another host."""


class Guard:
    """Keeps the page to itself: nothing is loaded from other hosts, by the browser or by the server.

    Gradio would fetch addresses of other hosts for whoever asks.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse such a request; otherwise add the policy to the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        path = scope["path"]
        if "/proxy=" in path or ("/file=" in path and ":/" in path):
            await JSONResponse({"error": "no other host is fetched"}, 403)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)


def make_app(first: Session, folder: Path) -> ASGIApp:
    """The ASGI application of the page.

    Args:
        first: every visitor's session starts as this one.
        folder: for files to download.
    """
    theme = gr.themes.Default(font=FONT, font_mono=["monospace"])
    page = _build(first, folder)
    # Gradio checks only in a page that it launched itself that a file named in a request was uploaded.
    page.has_launched = True
    mounted = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=theme,
        css=STYLE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_FILE,
        allowed_paths=[],
    )
    return Guard(mounted)


# What clicks do. Every function takes the visitor's session first.


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
    records: list[Record] = []
    drawn, before = 0.0, session.tuned
    with _told():
        yield _progress("Training starts …", records, total)
        try:
            for record in session.train(method, epochs):
                records.append(record)
                if time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    yield _progress(_now(record, len(records), total), records, total)
        except UserError:
            yield _progress(HINT, [], total)
            raise
    if session.tuned is before:
        text = f"Stopped after {len(records)} of {total} epochs; nothing has changed."
        yield _progress(text, records, total)
        return
    text = f"Done: {all_methods()[method].title}, {len(records)} epochs, {len(session.photos)} photos"
    losses = f", loss {records[0]['loss']:.3f} → {records[-1]['loss']:.3f}." if records else "."
    yield _progress(text + losses, records, max(len(records), 1))


def _now(record: Record, done: int, total: int) -> str:
    stage = "searching" if record["stage"] == "search" else "training"
    return f"Epoch {done} of {total} ({stage}), loss {record['loss']:.3f}"


def _progress(text: str, records: Sequence[Record], total: int) -> str:
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


# What is on the page.


def _build(first: Session, folder: Path) -> gr.Blocks:
    """The page: its parts, and which click calls which function."""
    with gr.Blocks(title="vlprompt", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        session = gr.State()
        gr.Markdown(
            "# Teach a frozen vision-language model your classes\n"
            f"Backbone **{first.zeroshot.model}**. Name classes and drop a picture: the model tells them "
            "apart by their names alone. Add a few photos of each class and train: only prompts are learned."
        )
        with gr.Row():
            names, use, picture = _question()
            views = [*_view("Zero-shot: names alone", "zeroshot"), *_view("Tuned: learned prompts", "tuned")]
        gr.Markdown("### 3 · Teach it with a few photos")
        label, files, adding, photos, clearing = _photos()
        method, epochs, start, stop, progress, save, download = _training()

        def show(event: Any) -> None:
            event(look, [session, picture], views, show_progress="minimal")

        page.load(lambda: begin(first), None, [session, names, label])
        show(picture.change)
        # Hidden, because a mistake would otherwise cover the box in which it is to be mended.
        renamed = use.click(rename, [session, names], [names, label], show_progress="hidden")
        show(renamed.success)
        adding.click(add, [session, label, files], [photos, label, files], show_progress="hidden")
        clearing.click(clear, session, photos)
        trained = start.click(train, [session, method, epochs], progress, show_progress="hidden")
        show(trained.success(lambda own: "\n".join(own.classnames), session, names).success)
        stop.click(halt, session)
        save.click(lambda own: keep(own, folder), session, download, show_progress="hidden")
    return page


def _question() -> tuple[gr.Textbox, gr.Button, gr.Image]:
    """The classes and the picture."""
    with gr.Column(scale=2, min_width=240):
        gr.Markdown("### 1 · Classes")
        names = gr.Textbox(label="Class names, one a line", lines=4, max_lines=12, elem_id="names")
        use = gr.Button("Use these names", elem_id="use")
        gr.Markdown("### 2 · Picture")
        picture = gr.Image(
            label="Drop a picture here",
            type="filepath",
            sources=["upload", "clipboard"],
            buttons=["fullscreen"],
            height=260,
            elem_id="picture",
        )
    return names, use, picture


def _view(title: str, name: str) -> tuple[gr.Label, gr.Image]:
    """A column with one classifier's bars and its heat map."""
    with gr.Column(scale=2, min_width=240):
        bars = gr.Label(label=title, num_top_classes=SHOWN, elem_id=name)
        heat = gr.Image(
            label="Where it saw the likeliest class",
            alt_text=f"{title}: heat map",
            interactive=False,
            visible=False,
            buttons=["download", "fullscreen"],
            height=260,
            elem_id=f"{name}-heat",
        )
    return bars, heat


def _photos() -> tuple[gr.Dropdown, gr.File, gr.Button, gr.Gallery, gr.Button]:
    """Where photos are added, and those that were."""
    with gr.Row():
        with gr.Column(scale=2):
            label = gr.Dropdown(label="Class that the photos show", allow_custom_value=True, elem_id="label")
            files = gr.File(
                label="Photos of this class",
                file_count="multiple",
                file_types=SUFFIXES,
                height=140,
                elem_id="files",
            )
            adding = gr.Button("Add these photos", elem_id="add")
        with gr.Column(scale=4):
            photos = gr.Gallery(
                label="Photos to learn from",
                columns=8,
                height=260,
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="photos",
            )
            clearing = gr.Button("Forget the photos", size="sm", elem_id="clear")
    return label, files, adding, photos, clearing


def _training() -> tuple[gr.Dropdown, gr.Slider, gr.Button, gr.Button, gr.HTML, gr.Button, gr.DownloadButton]:
    """How to train, its progress, and keeping the outcome."""
    methods = [(f"{m.title}: {m.learns}", name) for name, m in all_methods().items() if m.name != "zeroshot"]
    with gr.Row():
        with gr.Column(scale=2):
            method = gr.Dropdown(methods, value=METHOD, label="Method", elem_id="method")
            epochs = gr.Slider(1, 200, value=50, step=1, label="Epochs of each stage", elem_id="epochs")
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=4):
            progress = gr.HTML(_progress(HINT, [], 1), elem_id="progress")
            with gr.Row():
                save = gr.Button("Save the classifier", elem_id="save")
                download = gr.DownloadButton("Download the zip file", visible=False, elem_id="download")
    return method, epochs, start, stop, progress, save, download

"""The page of ``vlprompt app``: what is on it and how it looks; what its clicks do is in ``clicks.py``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlprompt.app.clicks import HINT, add, begin, clear, halt, keep, look, progress_html, rename, train
from vlprompt.app.session import Session
from vlprompt.methods import all_methods

SHOWN = 10
"""Classes with a bar."""
METHOD = "coop"
"""Chosen at first: quick, and content with a few photos."""
MAX_FILE = "64mb"
SUFFIXES = [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"]
FONT = ["system-ui", "sans-serif"]
STYLE = """
#picture img, #zeroshot-heat img, #tuned-heat img {width: 100%; height: 100%; object-fit: contain}
#photos .grid-container {grid-template-columns: repeat(auto-fill, minmax(100px, 1fr))}
#progress .bar {height: 0.6em; margin: 0.5em 0; border-radius: 0.3em; background: var(--border-color-primary)}
#progress .bar div {height: 100%; border-radius: 0.3em; background: var(--color-accent)}
#progress svg {width: 100%; height: 7em}
#progress polyline {fill: none; stroke: var(--color-accent); stroke-width: 2}
"""
POLICY = (
    b"default-src 'self' data: blob:; "
    b"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'"
)
"""What the browser may load: nothing from another host."""


SERVED = re.compile(
    r"GET (/|/config/?|/favicon\.ico|/manifest\.json|/robots\.txt|(/gradio_api)?/theme\.css"
    r"|/(assets|static|svelte)/[\w./@-]+"
    r"|/gradio_api/(info|startup-events|heartbeat/\w+|queue/data|upload_progress|file=(?P<file>.+)))"
    r"|POST /gradio_api/(queue/join|upload|cancel|reset)/?",
    re.DOTALL,
)
"""What the page asks for; Gradio has many routes more, of which some fetch addresses of other hosts."""


class Guard:
    """Keeps the page to itself: it serves what it asks for itself, and loads nothing from another host.

    Args:
        folder: the only one whose files can be fetched, beside those of Gradio's own page.
    """

    def __init__(self, app: ASGIApp, folder: Path):
        self.app, self.folder = app, folder.resolve()

    def serves(self, method: str, path: str) -> bool:
        """Whether a request is one of the page's own."""
        asked = SERVED.fullmatch(f"{'GET' if method == 'HEAD' else method} {path}")
        if asked is None or "\0" in path:
            return False
        file = asked["file"]
        return ".." not in path if file is None else Path(file).resolve().is_relative_to(self.folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is not served; otherwise add the policy to the answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        if self.serves(scope["method"], scope["path"]):
            await self.app(scope, receive, guarded)
        else:
            await JSONResponse({"error": "this is not served here"}, 403)(scope, receive, guarded)


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
    return Guard(mounted, folder)


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
    able = {n: m for n, m in all_methods().items() if n != "zeroshot" and not m.requires}
    methods = [(f"{m.title}: {m.learns}", name) for name, m in able.items()]
    with gr.Row():
        with gr.Column(scale=2):
            method = gr.Dropdown(methods, value=METHOD, label="Method", elem_id="method")
            epochs = gr.Slider(1, 200, value=50, step=1, label="Epochs of each stage", elem_id="epochs")
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="train")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=4):
            progress = gr.HTML(progress_html(HINT, [], 1), elem_id="progress")
            with gr.Row():
                save = gr.Button("Save the classifier", elem_id="save")
                download = gr.DownloadButton("Download the zip file", visible=False, elem_id="download")
    return method, epochs, start, stop, progress, save, download

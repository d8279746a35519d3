"""The model card of a tuned classifier, with its measured accuracy."""

from __future__ import annotations

from typing import Any


def write_card(title: str, config: dict[str, Any]) -> str:
    """README.md of an artifact.

    Args:
        title: the method's title.
        config: the artifact's configuration.
    """
    texts = config["reads"] == "texts"
    kind = "text-classification" if texts else "image-classification, clip"
    name, example = ("TextPromptClassifier", "a text") if texts else ("PromptClassifier", "photo.jpg")
    backbone = config["backbone"]
    commit = f", commit `{backbone['revision']}`" if backbone["revision"] else ""
    names = ", ".join(config["classnames"][:20]) + (", ..." if len(config["classnames"]) > 20 else "")
    lines = [
        "---",
        "library_name: vlprompt",
        f"tags: [prompt-learning, {kind}]",
        "---",
        "",
        f"# {title} for {len(config['classnames'])} classes",
        "",
        f"Prompts tuned with {config['library']} on the frozen backbone `{backbone['name']}` "
        f"(weights `{backbone['digest']}`{commit}), which is needed to use them.",
        "",
        f"Classes: {names}",
        "",
    ]
    lines += _table(config["measured"])
    settings = ", ".join(f"{key}={value!r}" for key, value in config["settings"].items())
    lines += [
        "",
        "```python",
        f"from vlprompt import {name}",
        "",
        f'classifier = {name}.load("this-folder")',
        f'classifier.predict(["{example}"])',
        "```",
        "",
        f"Method `{config['method']}`, seed {config['options']['seed']}: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _table(measured: dict[str, dict[str, float]]) -> list[str]:
    """The lines of what was measured, by the name of the images."""
    if not measured:
        return ["Its accuracy was not measured."]
    return [
        "| measured on | accuracy | macro-F1 | calibration error | images |",
        "|---|---|---|---|---|",
        *(
            f"| {what} | {m['accuracy']:.2f}% | {m['macro_f1']:.2f}% | {m['ece']:.2f}% | {m['n']} |"
            for what, m in measured.items()
        ),
    ]

"""The model card of a tuned classifier, with its measured accuracy."""

from __future__ import annotations

from typing import Any


def write_card(title: str, config: dict[str, Any]) -> str:
    """README.md of an artifact.

    Args:
        title: the method's title.
        config: the artifact's configuration.
    """
    backbone, measured = config["backbone"], config["measured"]
    names = ", ".join(config["classnames"][:20]) + (", ..." if len(config["classnames"]) > 20 else "")
    lines = [
        "---",
        "library_name: vlprompt",
        "tags: [prompt-learning, image-classification, clip]",
        "---",
        "",
        f"# {title} for {len(config['classnames'])} classes",
        "",
        f"Prompts tuned with {config['library']} on the frozen backbone `{backbone['name']}` "
        f"(revision `{backbone['revision']}`), which is needed to use them.",
        "",
        f"Classes: {names}",
        "",
    ]
    if measured:
        lines += [
            "| measured on | accuracy | macro-F1 | calibration error | images |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {what} | {m['accuracy']:.2f}% | {m['macro_f1']:.2f}% | {m['ece']:.2f}% | {m['n']} |"
            for what, m in measured.items()
        ]
    else:
        lines.append("Its accuracy was not measured.")
    settings = ", ".join(f"{key}={value!r}" for key, value in config["settings"].items())
    lines += [
        "",
        "```python",
        "from vlprompt import PromptClassifier",
        "",
        'classifier = PromptClassifier.load("this-folder")',
        'classifier.predict(["photo.jpg"])',
        "```",
        "",
        f"Method `{config['method']}`, seed {config['options']['seed']}: {settings}.",
        "",
    ]
    return "\n".join(lines)

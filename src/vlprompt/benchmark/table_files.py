"""Tables of a benchmark as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlprompt.benchmark.results import grouped, missing, read_results
from vlprompt.benchmark.tables import QUANTITIES, Entry, Table, capitalized, part_tables, section_title
from vlprompt.files import MARK, write_text
from vlprompt.reports.stats import number

FILES = ("tables.md", "tables.tex")


def write_tables(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``tables.md`` and ``tables.tex`` into a folder."""
    write_text(folder / FILES[0], f"<!-- {MARK} -->\n{markdown_tables(records)}")
    write_text(folder / FILES[1], f"% {MARK}\n{latex_tables(records)}")


def markdown_tables(records: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> str:
    """All tables of a results store as Markdown, the best of each column in bold.

    Args:
        metric: accuracy, macro_f1, ece or seconds.
    """
    parts = []
    for section in grouped(read_results(records), "setting").values():
        parts.append(f"## {section_title(section)}")
        for part in grouped(section, "part").values():
            parts += [_markdown(table) for table in part_tables(part, QUANTITIES[metric])]
            parts += filter(None, [missing(part)])
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    lines = [
        f"**{capitalized(table.title)}.** {table.quantity.title}.",
        "",
        "| method | " + " | ".join(table.columns) + " |",
        "|---|" + "---:|" * len(table.columns),
    ]
    for row, entries in table.rows.items():
        texts = [number(entry.values, table.quantity.digits) for entry in entries]
        texts = [f"**{text}**" if row in table.best(n) else text for n, text in enumerate(texts)]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", table.note] if table.note else lines)


def latex_tables(records: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> str:
    """All tables of a results store as LaTeX (needs the package booktabs), the best of each column in bold.

    Args:
        metric: accuracy, macro_f1, ece or seconds.
    """
    parts = ["% needs \\usepackage{booktabs}"]
    for section in grouped(read_results(records), "setting").values():
        for part in grouped(section, "part").values():
            tables = part_tables(part, QUANTITIES[metric])
            parts += [f"% {gaps}"] if (gaps := missing(part)) else []
            parts += [_latex(table, section_title(section)) for table in tables]
    return "\n\n".join(parts) + "\n"


def _latex(table: Table, section: str) -> str:
    caption = f"{section}; {table.title}. {table.quantity.title}." + (f" {table.note}" if table.note else "")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["Method", *map(_escape, table.columns)]) + r" \\",
        r"\midrule",
    ]
    digits = table.quantity.digits
    for row, entries in table.rows.items():
        texts = [_latex_entry(entry, digits, row in table.best(n)) for n, entry in enumerate(entries)]
        lines.append(" & ".join([_escape(row), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _latex_entry(entry: Entry, digits: int, best: bool) -> str:
    if not entry.values:
        return "--"
    mean, *deviation = number(entry.values, digits).split(" ± ")
    mean = rf"\textbf{{{mean}}}" if best else mean
    return mean + "".join(rf" {{\scriptsize $\pm$ {d}}}" for d in deviation)


def _escape(text: str) -> str:
    names = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum"}
    return text.translate(
        {ord(sign): "\\" + sign for sign in "&%$#_{}"}
        | {ord(sign): rf"\text{name}{{}}" for sign, name in names.items()}
    )

"""Own texts: a CSV file with a column of texts and one of labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vlprompt.data.folders import SPLITS, class_names, read_table
from vlprompt.dataset import Dataset, Item, Text
from vlprompt.errors import UserError


class Columns(NamedTuple):
    """Names of the columns of a data set of texts."""

    text: str = "text"
    label: str = "label"


COLUMNS = Columns()


def read_texts(file: str | Path, columns: Columns = COLUMNS) -> Dataset:
    """A data set from a CSV file with a column of texts, one of labels and, where wanted, split.

    Splits are train, val and test; without them it is a pool.

    Raises:
        UserError: names the line.
    """
    file = Path(file)
    names, rows = read_table(file)
    for column in columns:
        if column not in names:
            raise UserError(
                f"'{file}' has the columns {', '.join(names) or 'none'} and none named {column}: "
                "name the column of texts with --text-column and that of labels with --label-column"
            )
    for line, row in rows:
        if not (row[columns.text] or "").strip() or not row[columns.label]:
            raise UserError(f"'{file}', line {line}: text or label is empty: fill it in or remove the line")
        if (row.get("split") or "train") not in SPLITS:
            raise UserError(f"'{file}', line {line}: split '{row['split']}' is none of {', '.join(SPLITS)}")
    classes = sorted({row[columns.label] for _, row in rows})
    if len(classes) < 2:
        raise UserError(f"'{file}' names {len(classes)} class: it needs two or more")
    splits: dict[str, list[Item]] = {name: [] for name in SPLITS}
    for _, row in rows:
        item = Item(Text(row[columns.text]), classes.index(row[columns.label]))
        splits[row.get("split") or "train"].append(item)
    there = {item.label for item in splits["train"]}
    for label, name in enumerate(classes):
        if label not in there:
            raise UserError(f"class '{name}' of '{file}' has no training text: add some or remove it")
    train, val, test = (splits[name] for name in SPLITS)
    return Dataset(file.stem, class_names(classes), train, val, test)

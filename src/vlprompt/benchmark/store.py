"""Results of many runs in one file of JSON lines that no kill can spoil.

Records are only ever added, each in one locked and synced write. Several processes may write at
once. ``pandas.read_json(path, lines=True)`` and DuckDB's ``read_json_auto`` read the file as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from vlprompt.errors import UserError
from vlprompt.reading import check_regular, parse_json

RESULTS = "results.jsonl"
BEGINNING = b'{"key"'
"""Of every record; a file that begins otherwise is none of results, and is left as it is."""


class Store:
    """A file of records, each with a ``key`` of its own.

    Args:
        path: the file; made at the first record.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._records: dict[str, dict[str, Any]] = {}
        self._bytes = 0  # how much of the file has been read, always whole lines
        self._lines = 0

    def read(self) -> list[dict[str, Any]]:
        """All records, oldest first; nothing is written, and a last line that a kill cut off is left out.

        Raises:
            UserError: the file cannot be used, or a line of it is damaged.
        """
        try:
            if self.path.exists():
                check_regular(self.path)
                with self.path.open("rb") as file:
                    self._catch_up(file)
        except OSError as error:
            raise UserError(
                f"results file '{self.path}' cannot be read ({error.strerror}): give that of 'vlprompt bench'"
            ) from error
        return list(self._records.values())

    def open(self) -> None:
        """Make the file, or repair it where a kill cut off its last line.

        Raises:
            UserError: the file cannot be used, or a line of it is damaged.
        """
        with self._opened():
            pass

    def append(self, record: dict[str, Any]) -> bool:
        """Add a record; it is on the disk when this returns. False where its key is there already.

        Raises:
            UserError: the file cannot be used, or a line of it is damaged.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with self._opened() as file:
            if record["key"] in self._records:
                return False
            self._write(file.fileno(), line.encode())
            self._catch_up(file)
        return True

    def _write(self, file: int, line: bytes) -> None:
        """Add a line, whole or not at all."""
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(file, line[done:], self._bytes + done)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self._bytes)
            raise

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The file, repaired and read to its end, while no other process uses it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            with lock, self.path.open("a+b") as file:
                self._catch_up(file)  # which refuses a file of other things before anything is changed
                self._repair(file)
                self._catch_up(file)
                yield file
        except OSError as error:
            raise UserError(
                f"results file '{self.path}' cannot be used ({error.strerror}): give a place to write to"
            ) from error

    def _repair(self, file: IO[bytes]) -> None:
        """End the last line, or take it away where a kill cut it off: only a whole line is a record."""
        file.seek(self._bytes)
        tail = file.read().rpartition(b"\n")[2]
        if not tail:
            return
        if _record_in(tail) is not None:  # the kill took its line break only
            file.write(b"\n")
        else:
            file.truncate(file.tell() - len(tail))
        file.flush()

    def _catch_up(self, file: IO[bytes]) -> None:
        """Read the lines that were added since the last time."""
        file.seek(self._bytes)
        for line in file:
            if not line.endswith(b"\n"):
                if (record := _record_in(line)) is not None:  # only its line break is missing
                    self._records.setdefault(record["key"], record)
                elif not self._records and not (line.startswith(BEGINNING) or BEGINNING.startswith(line)):
                    raise self._no_record(1, line)
                break
            self._bytes += len(line)
            self._lines += 1
            record = _record_in(line)
            if record is not None:
                self._records.setdefault(record["key"], record)
            elif line.strip():
                raise self._no_record(self._lines, line)

    def _no_record(self, number: int, line: bytes) -> UserError:
        shown = line[:30].decode(errors="replace").strip()
        return UserError(
            f"results file '{self.path}', line {number}, is no record ('{shown}...'): remove the line, "
            "or give the file of 'vlprompt bench'"
        )


def finished_runs(results: Path) -> list[dict[str, Any]]:
    """The records of a results file, or of the folder that has it.

    Raises:
        UserError: there is no such file, it is damaged, or it holds no run.
    """
    file = results / RESULTS if results.is_dir() else results
    if not file.is_file():
        raise UserError(f"results '{file}' do not exist: give the folder that 'vlprompt bench --out' wrote")
    records = Store(file).read()
    if not records:
        raise UserError(f"results '{file}' hold no finished run: run 'vlprompt bench' again")
    return records


def _record_in(line: bytes) -> dict[str, Any] | None:
    """The record that a line is, or None where it is not a whole one."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("key"), str) else None

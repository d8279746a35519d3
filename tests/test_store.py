"""The results file: what is in it stays, whatever is killed, whoever else writes."""

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from vlprompt.benchmark.store import Store
from vlprompt.errors import UserError


def record(key: str, accuracy: float = 50.0) -> dict:
    return {
        "key": key,
        "run": {"method": "coop", "settings": {"epochs": 2} if key > "b" else {}, "seed": 1},
        "metrics": {"test": {"accuracy": accuracy, "n": 10}},
        "lengths": None,
        "finished": "2026-01-01T00:00:00+00:00",
    }


def test_records_come_back_in_order_and_once(tmp_path):
    store = Store(tmp_path / "new" / "results.jsonl")
    assert store.read() == []
    assert not store.path.exists()
    assert [store.append(record(k)) for k in ("b", "a", "b")] == [True, True, False]
    assert Store(store.path).read() == store.read() == [record("b"), record("a")]


def test_cut_off_anywhere_in_the_last_line(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [json.dumps(record(key)).encode() for key in ("a", "é")]
    whole = lines[0] + b"\n" + lines[1] + b"\n"
    for length in range(len(lines[0]) + 1, len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = [record("a"), record("é")] if length >= len(whole) - 1 else [record("a")]
        assert Store(path).read() == kept
        assert Store(path).append(record("c"))
        assert [json.loads(line) for line in path.read_bytes().splitlines()] == [*kept, record("c")]


def test_two_stores_see_each_other(tmp_path):
    path = tmp_path / "results.jsonl"
    one, other = Store(path), Store(path)
    assert one.append(record("a"))
    assert not other.append(record("a"))
    assert other.append(record("b"))
    assert one.read() == other.read() == [record("a"), record("b")]


FORK = multiprocessing.get_context("fork")  # starts at once; all that a writer does is write


def write(path: Path, name: str, count: int, told: Connection) -> None:
    """Add records of many sizes, every second one by a key that others have too; tell each that is stored."""
    store = Store(path)
    for number in range(count):
        key = f"shared{number}" if number % 2 else f"{name}-{number}"
        store.append({"key": key, "run": {}, "filling": "x" * (1 + 997 * number % 5000)})
        told.send(key)


def start(path: Path, name: str, count: int) -> tuple[BaseProcess, Connection]:
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=write, args=(path, name, count, theirs))
    process.start()
    theirs.close()
    return process, ours


def told(pipe: Connection) -> Iterator[str]:
    """Keys that a writer says are stored, until it ends."""
    with suppress(EOFError, OSError):
        while True:
            yield pipe.recv()


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "results.jsonl"
    writers = [start(path, name, 60) for name in ("one", "two")]
    assert [len(list(told(pipe))) for _, pipe in writers] == [60, 60]
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 30 + 30 + 30


def test_no_record_is_lost_when_writers_are_killed(tmp_path):
    path = tmp_path / "results.jsonl"
    stored: set[str] = set()
    for turn in range(5):
        victim, of_victim = start(path, f"killed{turn}", 100_000)
        survivor, of_survivor = start(path, f"lives{turn}", 15)
        stored |= set(islice(told(of_victim), 10 + 7 * turn))
        victim.kill()
        stored |= {*told(of_victim), *told(of_survivor)}
        survivor.join()
        assert survivor.exitcode == 0
    found = [entry["key"] for entry in Store(path).read()]
    assert len(found) == len(set(found)) == len(path.read_text().splitlines())
    assert stored <= set(found)


def test_pandas_and_duckdb_read_it(tmp_path):
    pandas, duckdb = pytest.importorskip("pandas"), pytest.importorskip("duckdb")
    store = Store(tmp_path / "results.jsonl")
    for key, accuracy in (("a", 40.0), ("c", 60.0)):
        store.append(record(key, accuracy))
    frame = pandas.read_json(store.path, lines=True)
    assert [m["test"]["accuracy"] for m in frame["metrics"]] == [40.0, 60.0]
    query = f"select run.method, avg(metrics.test.accuracy) from read_json_auto('{store.path}') group by 1"
    assert duckdb.sql(query).fetchall() == [("coop", 50.0)]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(record("a")) + "\n{oops\n" + json.dumps(record("b")) + "\n")
    with pytest.raises(UserError, match="line 2, is no record") as error:
        Store(path).read()
    assert str(path) in str(error.value)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path / "file" / "results.jsonl").open()


@pytest.mark.parametrize(
    "content", [b"notes\nhalf a line", b"notes", b"\xff\xd8\xff photo \n\x00 \n and more"]
)
def test_a_file_of_other_things_is_never_changed(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    for use in (Store(file).read, Store(file).open, lambda: Store(file).append(record("a"))):
        with pytest.raises(UserError, match="is no record"):
            use()
        assert file.read_bytes() == content


def test_reading_changes_nothing(tmp_path):
    file = tmp_path / "results.jsonl"
    content = json.dumps(record("a")).encode() + b'\n{"key": "b", "ru'
    file.write_bytes(content)
    assert Store(file).read() == [record("a")]
    assert file.read_bytes() == content

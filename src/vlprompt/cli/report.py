"""The command ``vlprompt report``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def report(
    results: Positional[Path],
    /,
    out: Path | None = None,
    tables: Path | None = None,
    force: bool = False,
) -> None:
    """Make the page, and the tables of a paper, from a benchmark's results.

    Args:
        results: results.jsonl of 'vlprompt bench', or its folder.
        out: the page; report.html beside the results by default.
        tables: folder for tables.md and tables.tex.
        force: write over these whoever made them.
    """
    from vlprompt.benchmark.report import write_bench_report
    from vlprompt.benchmark.store import finished_runs
    from vlprompt.benchmark.table_files import FILES, write_tables
    from vlprompt.files import check_targets

    out = out or (results if results.is_dir() else results.parent) / "report.html"
    check_targets(out, *([tables / name for name in FILES] if tables else []), force=force)
    records = finished_runs(results)
    write_bench_report(records, out)
    print(f"report in {out}")
    if tables is not None:
        write_tables(records, tables)
        print(f"tables in {tables}")

"""A profile's row tables as CSV: a row per row, the columns of the Parquet tables, units in their names.

Beside whole exports lies `columns.csv` with the unit and meaning of every column. Text that a spreadsheet would
take for a formula (it begins with = + - @, a tab or a line break) gets an apostrophe in front; numbers stay.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.tables import ROWS, AnyRow, table_schema, to_record

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def export_csv(profile: Path, target: Path, table: str | None = None, *, force: bool = False) -> dict[Path, int]:
    """Write a table to a file, or all tables into a folder; rows per file written.

    `target` is a folder where it is one, or has no suffix and no table was named. Raises InputError where a file
    is there already, unless `force`, and where the profile cannot be read or the target not be written.
    """
    check_table(table)
    found = read_profile(profile)
    whole = target.is_dir() or (table is None and not target.suffix)
    names = list(ROWS) if whole and table is None else [table or "measurements"]
    files = {target / f"{name}.csv" if whole else target: name for name in names}
    texts = {file: csv_text(name, rows_of(found, name)) for file, name in files.items()}
    counts = {file: len(rows_of(found, name)) for file, name in files.items()}
    if whole and table is None:
        texts[target / "columns.csv"] = columns_text()
    there = [str(file) for file in texts if file.exists()]
    if there and not force:
        raise InputError("these files are there already; --force replaces them", there)
    _write(texts)
    return counts


def check_table(table: str | None) -> None:
    """Raises InputError where a name is no row table's."""
    if table is not None and table not in ROWS:
        raise InputError(f"--table {table}: there is no such table; there are {', '.join(ROWS)}")


def rows_of(profile: Profile, table: str) -> Sequence[AnyRow]:
    """Rows of a table of a profile."""
    tables: dict[str, Sequence[AnyRow]] = {
        "measurements": profile.measurements,
        "accuracy": profile.accuracy,
        "flows": profile.flows,
        "interference": profile.interference,
        "handoffs": profile.handoffs,
    }
    return tables[table]


def csv_text(table: str, rows: Iterable[AnyRow]) -> str:
    """Rows of a table as CSV (RFC 4180): a header of column names, empty cells where nothing is known."""
    names = table_schema(table).names
    return _csv([names, *([_cell(record[name]) for name in names] for record in map(to_record, rows))])


def columns_text() -> str:
    """Unit and meaning of every column of every table, as CSV."""
    lines = [["table", "column", "unit", "description"]]
    for table in ROWS:
        for field in table_schema(table):
            lines.append([table, field.name, field.metadata[b"unit"].decode(), field.metadata[b"description"].decode()])
    return _csv(lines)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return repr(value)


def _write(texts: dict[Path, str]) -> None:
    for file, text in texts.items():
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(text.encode())
            unfinished.replace(file)
        except OSError as error:
            raise InputError(f"cannot write {file}: {error.strerror or error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

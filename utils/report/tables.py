"""Writes tables in Markdown, padded so that they are easy to read in a terminal too."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table with headings in the first row; words are left-aligned, numbers right-aligned."""
    columns = []
    for words, cells in zip(word_columns(rows), zip(*rows)):
        width = max(3, *map(len, cells))
        rule = "-" * width if words else "-" * (width - 1) + ":"
        columns.append([cell.ljust(width) if words else cell.rjust(width)
                        for cell in (cells[0], rule, *cells[1:])])
    return "\n".join(map(_row, zip(*columns)))


def word_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """One bool per column: True for words, False for numbers."""
    return [any(cell[:1].isalpha() or " " in cell for cell in column[1:]) for column in zip(*rows)]


def print_head(*columns: str) -> None:
    """Prints the headings of a table whose rows follow one by one."""
    print_row(*columns)
    print_row(*("---" for _ in columns))


def print_row(*cells: str) -> None:
    """Prints a row at once."""
    print(_row(cells), flush=True)


def _row(cells):
    return f"| {' | '.join(cells)} |"

"""Tables in Markdown, padded so that they are read as well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row are headings: words to the left, figures to the right."""
    words = word_columns(rows)
    widths = [max(3, *map(len, column)) for column in zip(*rows)]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, words)]
    return "\n".join(
        _row(cell.ljust(width) if left else cell.rjust(width)
             for cell, width, left in zip(row, widths, words))
        for row in (rows[0], rule, *rows[1:]))


def word_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column, whether it holds words and not figures."""
    return [any(cell[:1].isalpha() or " " in cell for cell in column[1:]) for column in zip(*rows)]


def print_head(*columns: str) -> None:
    """Prints the headings of a table whose rows are yet to be measured."""
    print_row(*columns)
    print_row(*("---" for _ in columns))


def print_row(*cells: str) -> None:
    """Prints a row at once."""
    print(_row(cells), flush=True)


def _row(cells):
    return f"| {' | '.join(cells)} |"

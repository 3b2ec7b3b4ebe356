"""Tables in Markdown, padded so that they are read as well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row are headings: words to the left, figures to the right."""
    columns = []
    for words, cells in zip(word_columns(rows), zip(*rows)):
        width = max(3, *map(len, cells))
        rule = "-" * width if words else "-" * (width - 1) + ":"
        columns.append([cell.ljust(width) if words else cell.rjust(width)
                        for cell in (cells[0], rule, *cells[1:])])
    return "\n".join(map(_row, zip(*columns)))


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

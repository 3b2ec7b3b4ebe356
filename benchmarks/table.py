"""A table in Markdown, each row printed as soon as it is measured."""

from __future__ import annotations


def print_head(*columns: str) -> None:
    """The columns' names, and the line below them."""
    print_row(*columns)
    print("|" + "---|" * len(columns), flush=True)


def print_row(*cells: str) -> None:
    """One row, which a reader sees at once."""
    print(f"| {' | '.join(cells)} |", flush=True)

"""A page of headings, tables, notes and pictures: Markdown, or HTML that needs no other file.

A page is a list of sections, (heading, blocks). A block is a str (a smaller heading), a list of
notes, a `Table` or `Figures`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple, Union

from utils.report.tables import markdown_table, word_columns

STYLE = Path(__file__).with_name("style.css")


class Table(NamedTuple):
    """Rows of text, the first of them headings.

    Attributes:
        groups: headings above the headings -> the columns that they span; in HTML only.
        marked: rows with this cell stand out; in HTML only.
    """

    rows: Sequence[Sequence[str]]
    groups: Mapping[str, int] = {}
    marked: str | None = None


class Figures(NamedTuple):
    """Pictures side by side, .png -> caption."""

    captions: Mapping[Path, str]


Block = Union[str, list, Table, Figures]
Sections = Sequence[tuple[str, Sequence[Block]]]


def to_markdown(sections: Sections, folder: Path | None = None) -> str:
    """The page as Markdown; pictures are linked from `folder`."""
    lines = []
    for index, (heading, blocks) in enumerate(sections):
        lines.append(f"{'##' if index else '#'} {heading}")
        for block in blocks:
            if isinstance(block, str):
                lines.append(f"### {block}")
            elif isinstance(block, Table):
                lines.append(markdown_table(block.rows))
            elif isinstance(block, Figures):
                lines += [f"![{caption or path.stem}]({path.relative_to(folder).as_posix()})"
                          for path, caption in block.captions.items()]
            else:
                lines.append("\n".join(f"- {note}" for note in block))
    return "\n\n".join(lines) + "\n"


def to_html(sections: Sections) -> str:
    """The page as HTML, with copies of the pictures in it; the first section names it."""
    title = escape(sections[0][0])
    body = "\n".join(
        f"<section>\n<h{1 + bool(index)}>{escape(heading)}</h{1 + bool(index)}>\n"
        + "\n".join(map(_html, blocks)) + "\n</section>"
        for index, (heading, blocks) in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE.read_text('utf-8')}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<h3>{escape(block)}</h3>"
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Figures):
        pictures = (_html_figure(path, caption) for path, caption in block.captions.items())
        return f'<div class="side">{"".join(pictures)}</div>'
    return '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in block) + "</ul>"


def _html_figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (f'<figure><img alt="{escape(caption or path.stem)}" '
            f'src="data:image/png;base64,{data}">{note}</figure>')


def _html_table(table: Table) -> str:
    words = word_columns(table.rows)

    def row(cells: Sequence[str], tag: str) -> str:
        content = "".join(f'<{tag}{" class=word" if left else ""}>{escape(cell)}</{tag}>'
                          for cell, left in zip(cells, words))
        return f'<tr{" class=ours" if table.marked in cells else ""}>{content}</tr>'

    above = "".join(f"<th colspan={span}>{escape(name)}</th>"
                    for name, span in table.groups.items())
    return ('<div class="scroll"><table>\n<thead>'
            + (f"<tr class=group>{above}</tr>" if above else "") + row(table.rows[0], "th")
            + "</thead>\n<tbody>\n" + "\n".join(row(cells, "td") for cells in table.rows[1:])
            + "\n</tbody>\n</table></div>")

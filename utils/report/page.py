"""A page of headings, tables, notes and pictures: Markdown, or HTML that needs no other file.

A page is a list of sections, (heading, blocks). A block is a str (a smaller heading), a list of
notes, a `Table` or `Figures`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple, Sequence, Tuple, Union

from utils.report.tables import markdown_table, word_columns

TEMPLATE = Path(__file__).with_name("page.html")


class Table(NamedTuple):
    """Rows of text, the first of them headings.

    Attributes:
        groups: headings above the headings → the columns that they span; in HTML only.
        marked: rows with this cell stand out; in HTML only.
    """

    rows: Sequence[Sequence[str]]
    groups: Mapping[str, int] = {}
    marked: str | None = None


class Figures(NamedTuple):
    """Pictures side by side, .png → caption."""

    captions: Mapping[Path, str]


Block = Union[str, list, Table, Figures]
Sections = Sequence[Tuple[str, Sequence[Block]]]


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
    """The page as HTML with copies of the pictures; its title is the first section's heading."""
    body = []
    for index, (heading, blocks) in enumerate(sections):
        body.append(_element(f"h{2 if index else 1}", heading))
        for block in blocks:
            if isinstance(block, str):
                body.append(_element("h3", block))
            elif isinstance(block, Table):
                body.append(f'<div class="scroll"><table>\n{_html_rows(block)}\n</table></div>')
            elif isinstance(block, Figures):
                pictures = "".join(map(_html_figure, *zip(*block.captions.items())))
                body.append(f'<div class="side">{pictures}</div>')
            else:
                notes = "".join(_element("li", note) for note in block)
                body.append(f'<ul class="notes">{notes}</ul>')
    template = Template(TEMPLATE.read_text("utf-8"))
    return template.substitute(title=escape(sections[0][0]), body="\n".join(body))


def _element(tag: str, text: str, attributes: str = "") -> str:
    return f"<{tag}{attributes}>{escape(text)}</{tag}>"


def _html_figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    note = _element("figcaption", caption) if caption else ""
    return (f'<figure><img alt="{escape(caption or path.stem)}" '
            f'src="data:image/png;base64,{data}">{note}</figure>')


def _html_rows(table: Table) -> str:
    classes = [" class=word" if words else "" for words in word_columns(table.rows)]
    rows = []
    for index, cells in enumerate(table.rows):
        content = "".join(_element("td" if index else "th", cell, name)
                          for cell, name in zip(cells, classes))
        rows.append(f'<tr{" class=ours" if table.marked in cells else ""}>{content}</tr>')
    above = "".join(_element("th", name, f" colspan={span}")
                    for name, span in table.groups.items())
    if above:
        rows.insert(0, f"<tr class=group>{above}</tr>")
    end = 2 if above else 1
    return "\n".join(["<thead>", *rows[:end], "</thead>\n<tbody>", *rows[end:], "</tbody>"])

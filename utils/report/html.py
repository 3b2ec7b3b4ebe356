"""Pieces of an HTML page that needs no other file and no JavaScript."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from utils.report.tables import word_columns

STYLE = Path(__file__).with_name("style.css")


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page; `body` are its parts, as HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text('utf-8')}</style>\n</head>\n"
        "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def html_section(heading: str, *content: str) -> str:
    """A heading and what stands below it, which is HTML."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(content) + "\n</section>"


def html_notes(lines: Sequence[str]) -> str:
    """A list in small grey letters."""
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def html_figure(path: Path, caption: str = "") -> str:
    """A copy of a .png, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (f'<figure><img alt="{escape(caption or path.stem)}" '
            f'src="data:image/png;base64,{data}">{note}</figure>')


def html_values(heading: str, values: Mapping[str, object]) -> str:
    """Names and their values below a small heading."""
    items = (f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
    return f"<div><h3>{escape(heading)}</h3><dl>{''.join(items)}</dl></div>"


def html_table(
    rows: Sequence[Sequence[str]],
    groups: Mapping[str, int] | None = None,
    marked: str | None = None,
) -> str:
    """A table.

    Args:
        rows: cells of text; the first row are headings.
        groups: headings above them -> columns they span.
        marked: rows with this cell stand out.
    """
    words = word_columns(rows)

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f'<{tag}{" class=word" if left else ""}>{escape(cell)}</{tag}>'
                       for cell, left in zip(row, words))

    above = "".join(f"<th colspan={span}>{escape(name)}</th>" for name, span in
                    (groups or {}).items())
    body = "\n".join(f'<tr{" class=ours" if marked in row else ""}>{cells(row, "td")}</tr>'
                     for row in rows[1:])
    return (f'<div class="scroll"><table>\n<thead>'
            f'{f"<tr class=group>{above}</tr>" if groups else ""}<tr>{cells(rows[0], "th")}</tr>'
            f"</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>")

"""README and docs/: links lead somewhere, translations say the same, commands can be given."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import pytest
from scripts import ROOT

ALL = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").glob("*.md"),
       *(ROOT / "model" / "pretrained").rglob("*.md")]
ENGLISH = [ROOT / "README.md", ROOT / "data" / "README.md",
           *sorted(page for page in (ROOT / "docs").glob("*.md")
                   if not page.name.endswith(".zh-CN.md"))]
FLAG = r"--[A-Za-z_]+"
NUMBER = r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?!-D)"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def chinese(page):
    return page.with_name(f"{page.stem}.zh-CN.md")


TRANSLATED = [page for page in ENGLISH if chinese(page).is_file()]


def by_name(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def read(page):
    return page.read_text("utf-8")


def prose(page):
    """What a page says, without its blocks of code."""
    return BLOCK.sub("", read(page))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """(path, anchor) of the links within the project; the path may be empty."""
    return [(path, anchor)
            for path, _, anchor in (link.partition("#")
                                    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)))
            if not path.startswith(("http:", "https:"))]


def blocks(page):
    """(language, lines) of the blocks of code, without comments."""
    return [(language, [re.sub(r"\s*#.*", "", line) for line in code.splitlines()])
            for language, code in BLOCK.findall(read(page))]


def tables(page):
    """The tables of a page, each a list of rows of cells."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", prose(page), re.M)
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
            for table in found]


def numbers(text):
    return sorted(re.findall(NUMBER, text))


def telling_numbers(text):
    """Fractions, and numbers of three digits; smaller ones may be words in one of the languages."""
    return [number for number in numbers(text) if re.search(r"[.e]|\d.?\d.?\d", number)]


def sections(page):
    return re.split(r"^## ", prose(page), flags=re.M)


@functools.lru_cache(maxsize=None)
def flags(script):
    """The flags that a script, or -m and a module, takes."""
    run = subprocess.run([sys.executable, *script.split(), "--help"], cwd=ROOT, text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stderr
    return set(re.findall(FLAG, run.stdout))


def commands(page):
    """(script or module, flags given) of all commands of a page, in blocks and in sentences."""
    lines = [line for language, code in blocks(page) if language == "bash" for line in code]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    found = [re.match(r"python3? (-m [\w.]+|\w+\.py)\b(.*)", line) for line in lines]
    return [(match[1], re.findall(FLAG, match[2])) for match in found if match]


@by_name(ALL)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_what_a_user_needs_is_in_chinese_too():
    names = ("README.md", "docs/usage.md", "docs/gpu.md", "data/README.md")
    assert {ROOT / name for name in names} <= set(TRANSLATED)


@by_name(TRANSLATED)
def test_both_languages_say_the_same(page):
    other = chinese(page)
    assert blocks(page) == blocks(other)
    assert len(tables(page)) == len(tables(other))
    for ours, theirs in zip(tables(page), tables(other)):
        assert ([[numbers(cell) for cell in row] for row in ours]
                == [[numbers(cell) for cell in row] for row in theirs])
    assert len(sections(page)) == len(sections(other))
    for ours, theirs in zip(sections(page), sections(other)):
        assert telling_numbers(ours) == telling_numbers(theirs), ours.partition("\n")[0]


@by_name(TRANSLATED)
def test_links_lead_to_pages_of_the_same_language_where_there_are(page):
    def targets(path):
        return {(path.parent / link).resolve() for link, _ in links(path) if link}

    translated = {chinese(target) if target in TRANSLATED else target
                  for target in targets(page) - {chinese(page)}}
    assert translated == targets(chinese(page)) - {page}


def test_the_readme_leads_to_every_page():
    assert set(ENGLISH[1:]) <= {ROOT / path for path, _ in links(ROOT / "README.md")}


@pytest.mark.parametrize("section, page", [("Parity", "parity.md"), ("Speed", "speed.md")])
def test_numbers_of_the_readme_stand_on_the_page(section, page):
    """The README's short tables are parts of the pages' long ones."""
    def rows(text):
        return re.findall(r"^\| (L2SKNet_\w+) \| (.*) \|$", text, re.M)

    (text,) = (text for text in sections(ROOT / "README.md") if text.startswith(section))
    full = rows(read(ROOT / "docs" / page))
    assert len(rows(text)) == 4
    for model, cells in rows(text):
        known = {cell for name, row in full if name == model for cell in row.split(" | ")}
        assert set(cells.split(" | ")) <= known, model


@by_name(ENGLISH)
def test_commands_can_be_given(page):
    for script, given in commands(page):
        if script.startswith("-m "):
            path = ROOT / script[3:].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), script
        else:
            assert (ROOT / script).is_file(), script
        assert not given or set(given) <= flags(script), f"{script} {' '.join(given)}"
    for name in re.findall(r"requirements[\w-]*\.txt", read(page)):
        assert (ROOT / name).is_file(), name


def test_the_tables_name_every_script_and_every_flag():
    page = ROOT / "docs" / "usage.md"
    written, given = tables(page)[:2]
    scripts = {row[0].strip("`").replace("python -m", "-m") for row in written[2:]}
    assert scripts == {"-m alignment", *(path.name for path in ROOT.glob("*.py"))} - {
        "demo.py", "run_tests.py"}  # these take none
    said = {flag for row in given[2:] for flag in re.findall(FLAG, row[0])}
    taken = set().union(*map(flags, scripts))
    assert said <= taken
    assert taken - {"--help"} <= set(re.findall(FLAG, read(page)))

"""Joins several datasets into one, for a network that is trained on all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.data.find import SPLITS
from utils.data.layouts import hidden
from utils.data.writing import REPORT, workplace, write_lists
from utils.errors import UserError, listed
from utils.files import write_text


def join(
    sources: Sequence[Path], target: Path, prepare: Callable[[Path, Path], str]
) -> str:
    """Prepares each source, and joins their images and lists; all of it or nothing.

    Every name begins with its source's name: 000001 of NUDT-SIRST becomes NUDT-SIRST_000001.

    Args:
        sources: folders or zips.
        target: the new dataset's folder.
        prepare: converts a source into a folder and returns the report, as `prepare.prepare`.

    Returns:
        The reports, and how many images each source adds to each list.

    Raises:
        UserError: two sources have one name, or two images would have; something is at `target`
            already; or as `prepare`.
    """
    names = [source.stem if source.is_file() else source.resolve().name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{listed(twice)}: several sources have this name, so the names of their "
                        "images would clash; rename one")
    for name in filter(hidden, names):
        raise UserError(f"{name}: would begin the names of images, which would be hidden files; "
                        "rename this source")
    if os.path.lexists(target):
        raise UserError(f"{target}: exists already; remove it, or take another --name")
    with workplace(target) as work:
        built, report = work / "built", ""
        lists: dict[str, list[str]] = {split: [] for split in SPLITS}
        counts: dict[str, list[str]] = {split: [] for split in SPLITS}
        taken: set[Path] = set()  # names of the sources before
        for name, source in zip(names, sources):
            part = work / "parts" / name
            report += f"== {name}\n{prepare(source, part)}"
            for kind in ("images", "masks"):
                for file in [path for path in (part / kind).rglob("*") if not path.is_dir()]:
                    place = built / kind / f"{name}_{file.relative_to(part / kind)}"
                    if place.with_suffix("") in taken:
                        raise UserError(f"{place.relative_to(built / kind)}: would be the name of "
                                        f"an image of {name} and of another source; rename {name}")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    file.rename(place)
            taken |= {path.with_suffix("") for path in built.rglob("*")}
            for split in SPLITS:
                path = part / f"{split}.txt"
                own = path.read_text("utf-8").splitlines() if path.is_file() else []
                lists[split] += [f"{name}_{line}" for line in own]
                counts[split].append(f"{len(own)} of {name}")
        write_lists(built, {split: joined for split, joined in lists.items() if joined})
        report += "== joined\n" + "".join(
            f"{split}.txt: {', '.join(parts)}\n" for split, parts in counts.items())
        write_text(built / REPORT, report)
        os.replace(built, target)
    return report

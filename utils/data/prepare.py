"""Brings a dataset as it was downloaded into the project's own layout, with a report."""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.data.boxes import make_masks
from utils.data.contrast import Contrast, measure_contrast
from utils.data.decoding import read_orientation
from utils.data.find import NOTHING_GIVEN, SHOWN, Found, Given, find
from utils.data.images import binary, has_grey, read_levels, resize_mask
from utils.data.layouts import walk
from utils.data.pairs import Pair, describe_sizes, read_pairs
from utils.data.writing import REPORT, workplace, write_lists
from utils.data.zips import unpack
from utils.errors import UserError, listed
from utils.files import link_or_copy, write_text

# Files of these kinds beside images are lists and notes.
TEXTS = (".txt", ".json", ".xml", ".csv", ".md", ".db", ".ini")


def prepare(
    source: Path, target: Path, copy: bool = False, fraction: float = 0.5, seed: int = 42,
    num_workers: int = 4, given: Given = NOTHING_GIVEN, fit_masks: bool = False,
    make_test: bool = True,
) -> str:
    """Brings a dataset into the project's layout; all of it or nothing.

    Args:
        source: a folder or a .zip, in any layout of `utils.data.layouts`.
        target: the dataset's new folder: images/, masks/, train.txt, test.txt and the report.
        copy: True copies files, False links them. Files of a zip are always copied.
        fraction, seed, given, make_test: of `find`.
        fit_masks: True resizes masks of another size to their image, see `read_pairs`.

    Returns:
        The report.

    Raises:
        UserError: there is no dataset, or several; none of it can be used; something else is at
            `target` already.
    """
    if not os.path.lexists(source):
        raise UserError(f"{source}: no such folder or zip; check the path")
    if target.exists() and target.samefile(source):
        raise UserError(f"{source}: the result would have this path too; move the source, or take "
                        "another --name")
    with workplace(target) as work:
        folder, encoding, built = source, "", work / "built"
        if source.is_file():
            folder, copy = work / "unpacked", True
            encoding = unpack(source, folder)
        try:
            found = find(folder, source, fraction, seed, given, make_test)
            if encoding:
                found.notes.append(f"names of files in the zip: {encoding}")
            layouts, unmade, pairs = found.layouts, {}, {}
            if given.annotations:
                layouts, unmade = make_masks(found, work / "masks")
            for split, names in found.names.items():
                read = read_pairs(names, layouts[split], f"reading {split}", num_workers,
                                  fit_masks=fit_masks)
                pairs[split] = [_check(pair, unmade.get(pair.files[0])) for pair in read]
            good = {split: [pair for pair in checked if not pair.problems]
                    for split, checked in pairs.items()}
            for split, checked in pairs.items():
                if checked and not good[split]:
                    raise UserError(f"{source}: no image of the {split} list can be used; the "
                                    f"first: {checked[0].problems[0]}")
            lists = _write(built, good, {"images": copy,
                                         "masks": copy or given.annotations is not None})
            text = "".join(f"{line}\n" for line in _report(source, found, pairs, lists))
        except UserError as error:
            raise UserError(_name_archive(str(error), folder, source)) from error
        text = _name_archive(text, folder, source)
        if not copy and not any(map(Path.is_symlink, built.rglob("*"))):
            text += f"{target.parent}: cannot hold symbolic links, so the files were copied\n"
        if os.path.lexists(target):
            if not _same(built, target):
                raise UserError(f"{target}: exists already, with other content; remove it, or take "
                                "another --name")
            return f"{text}{target}: was prepared before, nothing changed\n"
        write_text(built / REPORT, text)
        os.replace(built, target)
    return text


def _name_archive(text: str, folder: Path, archive: Path) -> str:
    """The text with the archive's name in place of the temporary folder that it was unpacked to."""
    return text if folder == archive else text.replace(f"{folder}/", f"{archive}: ")


# Check


class _Checked(NamedTuple):
    """A pair without its arrays, and the facts about a good pair that the report counts."""

    name: str
    files: tuple[Path | None, Path | None]
    problems: list[str]
    fitted: str
    shape: tuple[int, int] = (0, 0)
    bits: int = 0
    grey: bool = False
    digest: str = ""
    contrast: Contrast = Contrast()
    orientations_differ: bool = False


def _check(pair: Pair, unmade: str | None) -> _Checked:
    """Checks a pair; `unmade` says why its mask could not be made."""
    problems = [unmade] if unmade else pair.problems
    checked = _Checked(pair.name, pair.files, problems, pair.fitted)
    if problems:
        return checked
    content = np.ascontiguousarray(pair.image).tobytes() + repr(pair.image.shape).encode()
    return checked._replace(
        shape=pair.image.shape,
        bits=8 * pair.image.itemsize,
        grey=has_grey(pair.levels),
        digest=hashlib.sha256(content).hexdigest(),
        contrast=measure_contrast(pair.image, binary(pair.levels)),
        orientations_differ=len({read_orientation(file) for file in pair.files}) > 1,
    )


# Write


def _write(
    folder: Path, good: Mapping[str, Sequence[_Checked]], copy: Mapping[str, bool]
) -> dict[str, list[str]]:
    """Writes images/, masks/ and the lists, and returns the lists.

    If one name stands for two different files, the new names begin with the lists' names.

    Args:
        copy: "images" or "masks" → True to copy these files, False to link them.
    """
    images = defaultdict(set)
    for pair in chain(*good.values()):
        images[pair.name].add(pair.files[0])
    lists: dict[str, list[str]] = {}
    pairs = {}  # new name → pair: an image may stand on both lists
    for split, part in good.items():
        lists[split] = [pair.name if len(images[pair.name]) == 1 else f"{split}_{pair.name}"
                        for pair in part]
        for name, pair in zip(lists[split], part):
            if pairs.setdefault(name, pair).files[0] != pair.files[0]:
                raise UserError(f"{pair.files[0]}: would have the name {name} of "
                                f"{pairs[name].files[0]}; rename one")
    for name, pair in pairs.items():
        for kind, file in zip(("images", "masks"), pair.files):
            place = folder / kind / f"{name}{file.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "masks" and pair.fitted:
                mask = Image.fromarray(resize_mask(read_levels(file), pair.shape))
                mask.save(folder / kind / f"{name}.png")
            elif copy[kind]:
                shutil.copyfile(file, place)
            else:
                link_or_copy(file.resolve(), place)
    write_lists(folder, lists)
    return lists


def _same(built: Path, target: Path) -> bool:
    """True if two prepared folders have the same files, apart from the report."""
    mine, theirs = ({path.relative_to(folder): path for path in folder.rglob("*")
                     if not path.is_dir() and path.name != REPORT} for folder in (built, target))
    return mine.keys() == theirs.keys() and all(
        mine[place].resolve() == theirs[place].resolve()
        or mine[place].read_bytes() == theirs[place].read_bytes() for place in mine)


# Report


def _report(
    source: Path, found: Found, pairs: Mapping[str, Sequence[_Checked]],
    lists: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    # Keyed by the file: an image may stand on both lists.
    once = {pair.files[0] or f"{split}/{pair.name}": pair
            for split, checked in pairs.items() for pair in checked}
    good = [pair for pair in once.values() if not pair.problems]
    bad = [pair for pair in once.values() if pair.problems]
    bits = " and ".join(map(str, sorted({pair.bits for pair in good})))
    yield f"{source}: {len(good)} images with masks, " \
          f"{describe_sizes(pair.shape for pair in good)}, {bits} bit"
    folders = sorted({f"{found.shown(layout.images)}/ and {found.shown(layout.masks)}"
                      f"{'/' * layout.masks.is_dir()}" for layout in found.layouts.values()})
    yield f"folders: {', '.join(folders)}"
    naming = Counter(map(_mask_suffix, good)).most_common()
    yield "masks named: " + ", ".join(f"NAME{suffix} ({count})" for suffix, count in naming)
    yield from found.notes
    unlisted = set(found.layouts["train"].image_files()).difference(*found.names.values())
    if unlisted and len(folders) == 1:
        yield f"on no list, left out: {listed(sorted(unlisted), SHOWN)}"
    passed = sorted(_passed_over(found))
    if passed:
        yield _counted("files that are no image of the dataset and no mask of one, left out",
                       passed)
    grey = [pair.name for pair in good if pair.grey]
    yield f"masks with grey values, target above half of full scale: {len(grey)}"
    fitted = [pair.fitted for pair in good if pair.fitted]
    if fitted:
        yield _counted("masks brought to the size of their image", fitted)
    turned = [pair.name for pair in good if pair.orientations_differ]
    if turned:
        yield _counted("WARNING: image and mask with different EXIF orientations, which are "
                       "ignored", turned)
    yield from Contrast(*map(sum, zip(*(pair.contrast for pair in good)))).describe()
    both = set.intersection(*map(set, lists.values())) if len(lists) > 1 else ()
    yield _counted("images in both lists", sorted(both))
    alike = defaultdict(list)
    for pair in good:
        alike[pair.digest].append(pair.name)
    twins = [" = ".join(names) for names in alike.values() if len(names) > 1]
    yield _counted("images that are pixel for pixel the same", twins)
    yield f"pairs left out: {len(bad)}"
    yield from (f"  {line}" for pair in bad for line in pair.problems)
    yield "written: " + ", ".join(f"{len(names)} on {split}.txt" for split, names in lists.items())


def _passed_over(found: Found) -> set[str]:
    """Files in the folders of images and masks that no pair has, as the report shows them."""
    used, there = set(), set()
    for layout in {layout._replace(list=None) for layout in found.layouts.values()}:
        images = layout.image_files()
        used.update(images.values())
        folders = {layout.images}
        if layout.masks.is_dir():
            used.update(layout.mask_files([*images]).values())
            folders.add(layout.masks)
        there.update(file for folder in folders for file in walk(folder)
                     if file.suffix.lower() not in TEXTS)
    return {str(found.shown(file)) for file in there - used}


def _counted(what: str, names: Sequence[str]) -> str:
    return f"{what}: {len(names)}{': ' * bool(names)}{listed(names, SHOWN)}"


def _mask_suffix(pair: _Checked) -> str:
    """What follows the image's name in the name of its mask."""
    stem = unicodedata.normalize("NFC", pair.files[1].stem)
    return stem[len(pair.name.rsplit("/", 1)[-1]) :]

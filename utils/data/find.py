"""Finds the dataset in a folder: the places of its files, and the names on its lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.layouts import SPLIT_FOLDERS, Layout, find_list, hidden, layout_of
from utils.errors import UserError, listed

SPLITS = ("train", "test")
DEPTH = 4  # levels of folders below the source that are searched
SHOWN = 20  # names in a line of the report


class Given(NamedTuple):
    """Folders and suffixes that the user has given, in place of a layout of the tables.

    Attributes:
        images: the folder of the images; None: by `utils.data.layouts`.
        masks: the folder of the masks; None: the folder of the images.
        image_suffix, mask_suffix: of `Layout`.
        annotations: the file or folder of boxes in place of `masks`; in the layouts that are found
            it stands for the folder of masks. The default of `images` is then images/.
    """

    images: Path | None = None
    masks: Path | None = None
    image_suffix: str = ""
    mask_suffix: str | None = None
    annotations: Path | None = None


NOTHING_GIVEN = Given()  # by the tables of `utils.data.layouts`


class Found(NamedTuple):
    """A dataset with its lists.

    Attributes:
        folder: the dataset's folder, at or below the source.
        layouts: list → where its files lie.
        names: list → names, each once.
        notes: lines of the report on where the lists come from.
    """

    folder: Path
    layouts: dict[str, Layout]
    names: dict[str, list[str]]
    notes: list[str]

    def shown(self, path: Path) -> Path:
        """A path as the report shows it: relative to the dataset's folder if it is there."""
        return path.relative_to(self.folder) if self.folder in (path, *path.parents) else path


def find(
    folder: Path, source: Path, fraction: float, seed: int, given: Given, make_test: bool
) -> Found:
    """Finds the dataset at or below a folder, and makes the lists that it lacks.

    Args:
        source: the name of the folder in messages.
        fraction: of images for the train list, if there are no lists.
        seed: the seed with which lists are drawn.
        given: what the user has given.
        make_test: True makes a missing test list of the images on no list. If there are none, both
            lists are drawn anew. False leaves a missing test list out.

    Raises:
        UserError: there is no dataset, or several; or as `layouts.find_list`.
    """
    if given.annotations and not given.images:
        given = given._replace(images=Path("images"))
    root, layouts = _by_flags(folder, source, given) if given.images else _by_tables(folder, source)
    suffixes = {"image_suffix": given.image_suffix, "mask_suffix": given.mask_suffix}
    layouts = {split: layout._replace(**suffixes) for split, layout in layouts.items()}
    # A list without a file is all images of its folder, if no other list has this folder.
    separate = len({layout.images for layout in layouts.values()}) == len(layouts)
    first = next(iter(layouts.values()))
    found = Found(root, {split: layouts.get(split, first) for split in SPLITS}, {}, [])
    for split, layout in layouts.items():
        if layout.list or separate:
            names = layout.names()
            found.names[split] = list(dict.fromkeys(names))
            place = found.shown(layout.list or layout.images)
            found.notes.append(f"{split} list: {place}, {len(names)} names")
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                found.notes.append(f"  named more than once, kept once: {listed(twice, SHOWN)}")
    for place in chain(*SPLIT_FOLDERS.values()) if separate else ():
        other = root.joinpath(place, *first.images.relative_to(root).parts[1:])
        if other.is_dir() and all(other != layout.images for layout in layouts.values()):
            found.notes.append(f"of no list, left out: {found.shown(other)}/")
    missing = [split for split in SPLITS if split not in found.names]
    if missing:
        _make_lists(found, missing, first, fraction, seed, make_test)
    names = {split: found.names[split] for split in SPLITS if split in found.names}
    return found._replace(names=names)


# Folders


def _below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not hidden(path.name):
                yield from _below(path, depth - 1)


def _by_tables(folder: Path, source: Path) -> tuple[Path, dict[str, Layout]]:
    """The dataset's folder, and list → layout, by `utils.data.layouts`."""
    roots = {}
    for place in _below(folder):
        layouts = {split: layout_of(place, split, masks_required=True) for split in SPLITS}
        layouts = {split: layout for split, layout in layouts.items() if layout}
        # Below a folder with trainval/ and test/, each of these looks like a dataset too.
        if layouts and roots.keys().isdisjoint(place.parents):
            roots[place] = layouts
    if not roots:
        raise UserError(
            f"{source}: no dataset in it; there must be images/ and masks/ (or IRSTD1k_Img/ and "
            "IRSTD1k_Label/, or trainval/ and test/ with images/ and masks/ in each); name other "
            "folders with --images and --masks"
        )
    if len(roots) > 1:
        names = listed([str(root.relative_to(folder)) for root in roots])
        cure = "name one of them" if folder == source else "unpack it and name one of them"
        raise UserError(f"{source}: {len(roots)} datasets in it ({names}); {cure}")
    return next(iter(roots.items()))


def _by_flags(folder: Path, source: Path, given: Given) -> tuple[Path, dict[str, Layout]]:
    """As `_by_tables`, for folders that the user has named."""
    own = {split: next((folder / place for place in places
                        if (folder / place / given.images).is_dir()), None)
           for split, places in SPLIT_FOLDERS.items()}
    if not all(own.values()) or (folder / given.images).is_dir():
        own = dict.fromkeys(SPLITS, folder)  # else train/DIR and test/DIR
    layouts = {}
    for split, place in own.items():
        images = _named_folder("--images", given.images, place, source)
        masks = _named_folder("--masks", given.masks, place, source) if given.masks else images
        if given.annotations:
            own_or_all = (at for at in (place, folder) if (at / given.annotations).exists())
            base = next(own_or_all, place)
            masks = _named_folder("--masks_from", given.annotations, base, source, Path.exists)
        elif images == masks and (given.mask_suffix or "") == given.image_suffix:
            raise UserError(f"{images}: images and masks in one folder; tell them apart with "
                            "--image_suffix and --mask_suffix")
        above = [parent for parent in (images, *images.parents)
                 if parent == place or place in parent.parents] or [place]
        lists = (find_list(parent, split) for parent in above)
        layouts[split] = Layout(images, masks, next(filter(None, lists), None))
    return folder, layouts


def _named_folder(
    flag: str, named: Path, folder: Path, source: Path,
    fits: Callable[[Path], bool] = Path.is_dir,
) -> Path:
    """The folder that a flag names: a path from the source or a folder in it, or from here."""
    if fits(folder / named):  # also an absolute path
        return folder / named
    places = [place / named for place in _below(folder) if fits(place / named)]
    if len(places) > 1:
        names = listed([str(place.relative_to(folder)) for place in places])
        above = "" if fits == Path.is_dir else ", or a folder above all of them"
        raise UserError(f"{flag} {named}: several in {source} ({names}); name one of them{above}")
    if not places and not fits(named):
        kind = "folder" if fits == Path.is_dir else "file or folder"
        raise UserError(f"{flag} {named}: no such {kind} in {source}; give its path there")
    return places[0] if places else named


# Lists


def _make_lists(
    found: Found, missing: Sequence[str], layout: Layout, fraction: float, seed: int,
    make_test: bool,
) -> None:
    """Adds the missing lists: by folders, from the images on no list, or at random."""
    taken = {name for names in found.names.values() for name in names}
    rest = sorted(layout.image_files().keys() - taken)
    own = _names_by_folder(rest)
    if own.keys() >= set(missing):  # images/train/ and images/test/
        for split in missing:
            found.names[split] = own[split]
            found.notes.append(f"{split} list: not there; the {len(own[split])} images of "
                               f"{found.shown(layout.images)}/{own[split][0].split('/')[0]}/")
        return
    if len(missing) == 1:
        missing_list = f"{missing[0]} list: not there"
        if rest and (make_test or missing[0] != "test"):
            found.names[missing[0]] = rest
            found.notes.append(f"{missing_list}; made of the {len(rest)} other images")
            return
        if not make_test or len(taken) < 2:
            found.notes.append(missing_list + ", and no image is left for it" * (not rest))
            return
        found.notes.append(f"{missing_list}, and no image is left for it; both are drawn from the "
                           "list that is there")
        rest = sorted(taken)
    if len(rest) < 2:
        raise UserError(f"{layout.images}: has fewer than two images to make lists of; add some")
    order = np.random.default_rng(seed).permutation(len(rest))
    cut = min(max(round(fraction * len(rest)), 1), len(rest) - 1)
    for split, part in zip(SPLITS, (order[:cut], order[cut:])):
        found.names[split] = sorted(rest[i] for i in part)
    found.notes.append(f"lists: not there; drawn by --split {fraction:g} --seed {seed}: "
                       f"{cut} train, {len(rest) - cut} test")


def _names_by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """List → names in its first folder of `SPLIT_FOLDERS`; empty if a name is in no folder."""
    own: dict[str, list[str]] = {}
    for split, places in SPLIT_FOLDERS.items():
        for place in places:
            inside = [name for name in names if name.startswith(f"{place}/")]
            if inside:
                own.setdefault(split, inside)
    return own if all("/" in name for name in names) else {}

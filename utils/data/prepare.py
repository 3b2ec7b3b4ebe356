"""A dataset as it was downloaded, brought into the project's own layout, with a report."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.data.contrast import Polarity, polarity
from utils.data.decoding import EXTENSIONS, read_orientation
from utils.data.images import binary, read_levels, resize_mask
from utils.data.layouts import (
    SPLIT_FOLDERS,
    Layout,
    find_list,
    image_folders,
    split_folder,
)
from utils.data.pairs import Pair, describe_sizes, has_grey, read_pairs
from utils.errors import UserError, listed
from utils.files import link_or_copy, write_text

SPLITS = ("train", "test")
DEPTH = 4  # folders below the source that are searched for the dataset
SHOWN = 20  # names that a line of the report has
REPORT = "prepared.txt"
KEPT = (*EXTENSIONS, ".txt")  # what is taken out of a zip


@dataclass
class Found:
    """What a source holds: the lists, each with its layout and the names that it names.

    Attributes:
        folder: of the dataset, at or below the source.
        layouts: list → where its files lie.
        names: list → stems, each once.
        notes: lines of the report on how the lists came about.
    """

    folder: Path
    layouts: dict[str, Layout]
    names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Facts(Pair):
    """What the report says of a pair, in place of its arrays."""

    shape: tuple[int, int] = (0, 0)
    bits: int = 0
    grey: bool = False
    digest: str = ""
    polarity: Polarity = Polarity()
    turned: bool = False  # image and mask ask for different turns


class Tree(NamedTuple):
    """Where a source has its files, in place of a layout of `utils.data.layouts`.

    Attributes:
        images: the folder of the images, of the source, or any.
        masks: the folder of the masks; None: `images`.
        image_suffix: what follows the name on a list in the name of an image.
        mask_suffix: what follows it in the name of a mask; None: any of `layouts.SUFFIXES`.
    """

    images: Path | None = None
    masks: Path | None = None
    image_suffix: str = ""
    mask_suffix: str | None = None


LAYOUT = Tree()  # by `utils.data.layouts`


def prepare(
    source: Path, target: Path, copy: bool = False, share: float = 0.5, seed: int = 42,
    num_workers: int = 4, tree: Tree = LAYOUT, fit_masks: bool = False, redraw: bool = True,
) -> str:
    """Brings a dataset into the project's layout; all of it or nothing.

    Args:
        source: a folder or a .zip, in any layout of `utils.data.layouts`.
        target: the dataset's new folder: images/, masks/, train.txt, test.txt and the report.
        copy: whether files are copied, not linked. Those of a zip always are.
        share: of the images that goes to the train list, where there are no lists,
        seed: and by which they are drawn.
        tree: the folders and suffixes that the user has named.
        fit_masks: whether masks of another size are resized to their image, see `read_pairs`.
        redraw: whether both lists are drawn from the only one there is, if it has all images.

    Returns:
        The report.

    Raises:
        UserError: no dataset there, or several; none of it can be used; something else is at
            `target` already.
    """
    if not os.path.lexists(source):
        raise UserError(f"{source}: no such folder or zip; check the path")
    if target.exists() and target.samefile(source):
        raise UserError(f"{source}: is where the result would go; move it elsewhere first, or take "
                        "another --name")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, on the same file system, so that one rename completes it.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        folder = source
        if source.is_file():
            folder = Path(work) / "unpacked"
            encoding = unpack(source, folder)
        try:
            found = find(folder, source, share, seed, tree, redraw)
            if folder != source and encoding:
                found.notes.append(f"names of files in the zip: {encoding}")
            pairs = _read(found, num_workers, fit_masks)
            good = {split: [pair for pair in read if not pair.problems]
                    for split, read in pairs.items()}
            if not any(good.values()):
                first = next(pair for read in pairs.values() for pair in read)
                raise UserError(f"{source}: none of its images can be used; the first: "
                                f"{first.problems[0]}")
            files, lists = _plan(found, good)
            text = "\n".join(_report(source, found, pairs, lists)) + "\n"
        except UserError as error:
            raise UserError(_of_archive(str(error), folder, source)) from error
        text = _of_archive(text, folder, source)
        fitted = {pair.files[1]: pair.shape for read in good.values() for pair in read
                  if pair.fitted}
        built = Path(work) / "built"
        _build(built, files, lists, copy or folder != source, fitted)
        if not copy and folder == source and not any(map(Path.is_symlink, built.rglob("*"))):
            text += f"{target.parent}: has no symbolic links, so the files were copied\n"
        if os.path.lexists(target):
            if not _same(built, target):
                raise UserError(
                    f"{target}: exists already, with other content; remove it, or take another "
                    "--name"
                )
            return f"{text}{target}: was prepared before, nothing changed\n"
        write_text(built / REPORT, text)
        os.replace(built, target)
    return text


def _of_archive(text: str, folder: Path, archive: Path) -> str:
    """A text that names files of the archive, and not of the folder into which it is unpacked."""
    return text if folder == archive else text.replace(f"{folder}/", f"{archive}: ")


# What is there


def unpack(archive: Path, folder: Path) -> str:
    """Takes images and lists out of a zip.

    Returns:
        How its names are encoded, if it does not say so itself and they are not ASCII.

    Raises:
        UserError: it is no sound zip, has names that lead out of the folder, or is too large.
    """
    folder.mkdir()
    entry = ""
    try:
        with zipfile.ZipFile(archive) as opened:
            encoding = _name_encoding(opened.infolist())
            for info in opened.infolist():
                info.filename = _name(info, encoding)
            members = [info for info in opened.infolist() if _wanted(archive, info)]
            size = sum(info.file_size for info in members)
            if size > shutil.disk_usage(folder).free:
                raise UserError(f"{archive}: unpacked it has {size / 1e9:.1f} GB, more than is "
                                f"free in {folder.parent.parent}; make room there")
            for info in tqdm(members, "unpacking", unit="file", leave=False, disable=None):
                entry = f": {info.filename}"
                opened.extract(info, folder)
        return encoding
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive}{entry}: cannot be unpacked as a zip ({reason}); download it "
                        "anew, or unpack it yourself and name the folder") from error
    except zlib.error as error:
        raise UserError(f"{archive}{entry}: damaged ({error}); download it anew") from error


_UTF_8 = 0x800  # the flag of an entry whose name is in UTF-8


def _name_encoding(entries: Sequence[zipfile.ZipInfo]) -> str:
    """How names without the flag for UTF-8 are encoded; empty if they are ASCII or unknown.

    macOS writes UTF-8 without the flag, Windows in China writes GBK.
    """
    plain = [info.filename for info in entries if not info.flag_bits & _UTF_8]
    names = "\n".join(name for name in plain if not name.isascii())
    for encoding in ("utf-8", "gbk") if names else ():
        try:
            names.encode("cp437").decode(encoding)  # as which Python has read them
        except UnicodeError:
            continue
        return encoding.upper()
    return ""


def _name(info: zipfile.ZipInfo, encoding: str) -> str:
    name = info.filename
    if encoding and not info.flag_bits & _UTF_8:
        name = name.encode("cp437").decode(encoding)
    return name.replace("\\", "/")  # as some programs for Windows write them


def _wanted(archive: Path, info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise UserError(f"{archive}: its file {info.filename} would be written outside the "
                        "dataset's folder; do not trust this zip")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive}: its file {info.filename} is a link, not a file; unpack it "
                        "yourself, check it, and name the folder")
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not info.is_dir() and not hidden and path.suffix.lower() in KEPT


def find(
    folder: Path, source: Path, share: float, seed: int, tree: Tree = LAYOUT, redraw: bool = True
) -> Found:
    """The dataset at or below a folder, and its lists, made where there are none.

    Args:
        source: what messages call the folder.

    Raises:
        UserError: there is none, or several; or as `layouts.find_list`.
    """
    found = _find_by_flags(folder, source, tree) if tree.images else _find_layout(folder, source)
    found.layouts = {split: layout._replace(**{
        "image_suffix": tree.image_suffix, "mask_suffix": tree.mask_suffix})
        for split, layout in found.layouts.items()}
    _find_lists(found, share, seed, redraw)
    return found


def _find_by_flags(folder: Path, source: Path, tree: Tree) -> Found:
    own = {split: next((folder / place for place in places
                        if (folder / place / tree.images).is_dir()), None)
           for split, places in SPLIT_FOLDERS.items()}
    if all(own.values()) and not (folder / tree.images).is_dir():  # train/DIR and test/DIR
        found = {split: _find_by_flags(place, source, tree) for split, place in own.items()}
        return Found(folder, {split: found[split].layouts[split] for split in SPLITS})
    images = _folder_of("--images", tree.images, folder, source)
    masks = _folder_of("--masks", tree.masks, folder, source) if tree.masks else images
    if images == masks and (tree.mask_suffix or "") == tree.image_suffix:
        raise UserError(f"{images}: images and masks in one folder; tell them apart with "
                        "--image_suffix and --mask_suffix")
    above = [place for place in (images, *images.parents)
             if place == folder or folder in place.parents] or [folder]
    lists = {split: next(filter(None, (find_list(place, split) for place in above)), None)
             for split in SPLITS}
    return Found(folder, {split: Layout(images, masks, lists[split]) for split in SPLITS})


def _folder_of(flag: str, named: Path, folder: Path, source: Path) -> Path:
    """The folder that a flag names: a path from the source or a folder in it, or from here."""
    places = [place / named for place in _below(folder, DEPTH) if (place / named).is_dir()]
    if places and places[0] == folder / named:  # also where `named` is absolute
        return places[0]
    if len(places) > 1:
        names = listed([str(place.relative_to(folder)) for place in places])
        raise UserError(f"{flag} {named}: several folders of {source} ({names}); name one of them")
    if places:
        return places[0]
    if named.is_dir():
        return named
    raise UserError(f"{flag} {named}: no such folder in {source}; name it as it is there")


def _find_layout(folder: Path, source: Path) -> Found:
    roots = [place for place in _below(folder, DEPTH) if _layouts(place)]
    # Below a folder with trainval/ and test/, each of these looks like a dataset too.
    roots = [root for root in roots if not any(other in root.parents for other in roots)]
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
    return Found(roots[0], _layouts(roots[0]))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith((".", "__MACOSX")):
                yield from _below(path, depth - 1)


def _layouts(folder: Path) -> dict[str, Layout]:
    """The layout of each list; empty where the folder is no dataset."""
    rows = [row for row in image_folders(folder) if row[1].is_dir()]
    if len(rows) > 1:
        raise UserError(f"{rows[0][0]}: and {rows[1][0].name}/ beside it; remove one of them")
    if rows:
        return {split: Layout(*rows[0], find_list(folder, split)) for split in SPLITS}
    own = {split: split_folder(folder, split) for split in SPLITS}
    return {split: Layout(*image_folders(place)[0], find_list(place, split))
            for split, place in own.items() if place}


def _find_lists(found: Found, share: float, seed: int, redraw: bool) -> None:
    """Fills `names`: from lists, from folders, and else by lot."""
    shared = len({layout.images for layout in found.layouts.values()}) < len(found.layouts)
    for split, layout in found.layouts.items():
        if layout.list is None and shared:
            continue
        names = layout.names()
        found.names[split] = list(dict.fromkeys(names))
        place = _shown(layout.list or layout.images, found)
        found.notes.append(f"{split} list: {place}, {len(names)} names")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            found.notes.append(f"  named more than once, kept once: {listed(twice, SHOWN)}")
    missing = [split for split in SPLITS if split not in found.names]
    layout = next(iter(found.layouts.values()))
    if not missing:
        return
    listed_already = {name for names in found.names.values() for name in names}
    rest = sorted(layout.image_files().keys() - listed_already)
    own = _names_by_folder(rest)
    if own.keys() >= set(missing):  # images/train/ and images/test/
        for split in missing:
            found.layouts.setdefault(split, layout)
            found.names[split] = own[split]
            found.notes.append(f"{split} list: not there; the {len(own[split])} images of "
                               f"{_shown(layout.images, found)}/{own[split][0].split('/')[0]}/")
        return
    if redraw and len(missing) == 1 and not rest and len(listed_already) > 1:
        found.notes.append(f"{missing[0]} list: not there, and no image is left for it; both are "
                           "drawn from the list that is there")
        missing, rest = list(SPLITS), sorted(listed_already)
    if len(missing) == 1 and rest:
        found.layouts.setdefault(missing[0], layout)
        found.names[missing[0]] = rest
        found.notes.append(f"{missing[0]} list: not there; made of the {len(rest)} other images")
    elif len(missing) == 1:
        found.notes.append(f"{missing[0]} list: not there, and no image is left for it")
    elif len(rest) < 2:
        raise UserError(f"{layout.images}: has no two images to make lists of; add some")
    else:
        order = np.random.default_rng(seed).permutation(len(rest))
        cut = min(max(round(share * len(rest)), 1), len(rest) - 1)
        parts = (order[:cut], order[cut:])
        found.names = {split: sorted(rest[i] for i in part) for split, part in zip(SPLITS, parts)}
        found.notes.append(f"lists: not there; drawn by --split {share:g} --seed {seed}: "
                           + ", ".join(f"{len(n)} {split}" for split, n in found.names.items()))


def _names_by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """list → names in the folder that `SPLIT_FOLDERS` has for it, if all names are in folders."""
    inside = defaultdict(list)
    for name in names:
        first, separator, _ = name.partition("/")
        inside[first if separator else ""].append(name)
    if "" in inside:
        return {}
    own = {split: [place for place in places if place in inside]
           for split, places in SPLIT_FOLDERS.items()}
    return {split: inside[places[0]] for split, places in own.items() if places}


def _shown(path: Path, found: Found) -> Path:
    """A path as the report shows it: from the dataset's folder on, if it is there."""
    return path.relative_to(found.folder) if found.folder in (path, *path.parents) else path


def _read(found: Found, num_workers: int, fit_masks: bool) -> dict[str, list[_Facts]]:
    """All pairs of all lists, without their arrays."""
    read = {}
    for split, names in found.names.items():
        bar = tqdm(read_pairs(names, found.layouts[split], num_workers, True, fit_masks),
                   f"reading {split}", len(names), unit="image", leave=False, disable=None)
        read[split] = [_facts(pair) for pair in bar]
    return read


def _facts(pair: Pair) -> _Facts:
    facts = _Facts(pair.name, problems=pair.problems, files=pair.files, fitted=pair.fitted)
    if not pair.problems:
        facts.shape, facts.bits = pair.image.shape, 8 * pair.image.itemsize
        facts.grey = has_grey(pair.levels)
        content = np.ascontiguousarray(pair.image).tobytes() + repr(facts.shape).encode()
        facts.digest = hashlib.sha256(content).hexdigest()
        facts.polarity = polarity(pair.image, binary(pair.levels))
        facts.turned = len({read_orientation(file) for file in pair.files}) > 1
    return facts


# What is written


def _plan(
    found: Found, good: Mapping[str, Sequence[Pair]]
) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Path in the new folder → file; and the lists. Names of two different files get the list's."""
    images: dict[str, set[Path]] = defaultdict(set)
    for read in good.values():
        for pair in read:
            images[pair.name].add(pair.files[0])
    files, lists = {}, {}
    for split, read in good.items():
        lists[split] = []
        for pair in read:
            name = pair.name if len(images[pair.name]) == 1 else f"{split}_{pair.name}"
            lists[split].append(name)
            for kind, file in zip(("images", "masks"), pair.files):
                files[f"{kind}/{name}{file.suffix}"] = file
    return files, lists


def _build(
    folder: Path, files: Mapping[str, Path], lists: Mapping[str, Sequence[str]], copy: bool,
    fitted: Mapping[Path, tuple[int, int]],
) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for place, file in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if file in fitted:
            mask = Image.fromarray(resize_mask(read_levels(file), fitted[file]))
            mask.save((folder / place).with_name(f"{Path(place).stem}.png"))
        elif copy:
            shutil.copyfile(file, folder / place)
        else:
            link_or_copy(file.resolve(), folder / place)
    for split, names in lists.items():
        write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in names))


def _same(built: Path, target: Path) -> bool:
    """Whether two prepared folders have the same files, the report aside."""
    mine, theirs = (_contents(folder) for folder in (built, target))
    return mine.keys() == theirs.keys() and all(
        mine[place].resolve() == theirs[place].resolve()
        or mine[place].read_bytes() == theirs[place].read_bytes() for place in mine)


def _contents(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*")
            if not path.is_dir() and path.name != REPORT}


# What is said


def _report(
    source: Path, found: Found, pairs: Mapping[str, Sequence[_Facts]],
    lists: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    read = {pair.files[0] or f"{split}/{pair.name}": pair
            for split, part in pairs.items() for pair in part}
    good = [pair for pair in read.values() if not pair.problems]
    layout = next(iter(found.layouts.values()))
    yield f"{source}: {len(good)} images with masks, {describe_sizes(p.shape for p in good)}, " \
          f"{' and '.join(str(bits) for bits in sorted({p.bits for p in good}))} bit"
    folders = {(lay.images, lay.masks) for lay in found.layouts.values()}
    yield "folders: " + ", ".join(sorted(
        f"{_shown(images, found)}/ and {_shown(masks, found)}/" for images, masks in folders))
    naming = Counter(_beyond(pair) for pair in good)
    yield "masks named: " + ", ".join(
        f"NAME{suffix} ({count})" for suffix, count in naming.most_common())
    yield from found.notes
    unlisted = set(layout.image_files()) - {
        name for split, names in found.names.items() for name in names}
    if unlisted and len(folders) == 1:
        yield f"on no list, left out: {listed(sorted(unlisted), SHOWN)}"
    grey = [pair.name for pair in good if pair.grey]
    yield f"masks with grey values, target above half of full scale: {len(grey)}"
    fitted = [pair.fitted for pair in good if pair.fitted]
    if fitted:
        yield "masks brought to the size of their image: " \
              f"{len(fitted)}: {listed(fitted, SHOWN)}"
    turned = [pair.name for pair in good if pair.turned]
    if turned:
        yield "WARNING: image and mask with different EXIF orientations, which are ignored: " \
              f"{len(turned)}: {listed(turned, SHOWN)}"
    yield from sum((pair.polarity for pair in good), Polarity()).describe()
    both = sorted(set.intersection(*map(set, lists.values()))) if len(lists) > 1 else []
    yield f"images in both lists: {len(both)}{': ' * bool(both)}{listed(both, SHOWN)}"
    alike = defaultdict(list)
    for pair in good:
        alike[pair.digest].append(pair.name)
    twins = [" = ".join(names) for names in alike.values() if len(names) > 1]
    yield f"images that are pixel for pixel the same: {len(twins)}{': ' * bool(twins)}" \
          f"{listed(twins, SHOWN)}"
    bad = [pair for pair in read.values() if pair.problems]
    yield f"pairs left out: {len(bad)}"
    yield from (f"  {line}" for pair in bad for line in pair.problems)
    yield "written: " + ", ".join(f"{len(names)} on {split}.txt" for split, names in lists.items())


def _beyond(pair: _Facts) -> str:
    """What follows the image's name in the name of its mask."""
    stem = unicodedata.normalize("NFC", pair.files[1].stem)
    return stem[len(pair.name.rsplit("/", 1)[-1]) :]

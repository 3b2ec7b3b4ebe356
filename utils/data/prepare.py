"""A dataset as it was downloaded, brought into the project's own layout, with a report."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from utils.data.datasets import Pair, describe_sizes, has_grey, read_pairs
from utils.data.images import EXTENSIONS
from utils.data.layouts import (
    SUFFIXES,
    Layout,
    find_list,
    image_folders,
    index_files,
    split_folder,
)
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


def prepare(
    source: Path, target: Path, copy: bool = False, share: float = 0.5, seed: int = 42,
    num_workers: int = 4,
) -> str:
    """Brings a dataset into the project's layout; all of it or nothing.

    Args:
        source: a folder or a .zip, in any layout of `utils.data.layouts`.
        target: the dataset's new folder: images/, masks/, train.txt, test.txt and the report.
        copy: whether files are copied, not linked. Those of a zip always are.
        share: of the images that goes to the train list, where there are no lists,
        seed: and by which they are drawn.

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
            unpack(source, folder)
        found = find(folder, source, share, seed)
        pairs = _read(found, num_workers)
        good = {split: [pair for pair in read if not pair.problems]
                for split, read in pairs.items()}
        if not any(good.values()):
            raise UserError(f"{source}: none of its images can be used; the first: "
                            f"{next(pair for read in pairs.values() for pair in read).problems[0]}")
        files, lists = _plan(found, good)
        text = "\n".join(_report(source, found, pairs, lists)) + "\n"
        built = Path(work) / "built"
        _build(built, files, lists, copy or folder != source)
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


# What is there


def unpack(archive: Path, folder: Path) -> None:
    """Takes images and lists out of a zip.

    Raises:
        UserError: it is no sound zip, has names that lead out of the folder, or is too large.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if _wanted(archive, info)]
            size = sum(info.file_size for info in members)
            if size > shutil.disk_usage(folder).free:
                raise UserError(f"{archive}: unpacked it has {size / 1e9:.1f} GB, more than is "
                                f"free in {folder.parent.parent}; make room there")
            for info in tqdm(members, "unpacking", unit="file", leave=False, disable=None):
                info.filename = _name(info)
                opened.extract(info, folder)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive}: cannot be unpacked as a zip ({reason}); download it anew, or "
                        "unpack it yourself and name the folder") from error
    except zlib.error as error:
        raise UserError(f"{archive}: damaged ({error}); download it anew") from error


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # as some programs for Windows write them


def _wanted(archive: Path, info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(_name(info))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise UserError(f"{archive}: its file {info.filename} would be written outside the "
                        "dataset's folder; do not trust this zip")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive}: its file {info.filename} is a link, not a file; unpack it "
                        "yourself, check it, and name the folder")
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not info.is_dir() and not hidden and path.suffix.lower() in KEPT


def find(folder: Path, source: Path, share: float, seed: int) -> Found:
    """The dataset at or below a folder, and its lists, made where there are none.

    Args:
        source: what messages call the folder.

    Raises:
        UserError: there is none, or several; or as `layouts.find_list`.
    """
    roots = [place for place in _below(folder, DEPTH) if _layouts(place)]
    # Below a folder with trainval/ and test/, each of these looks like a dataset too.
    roots = [root for root in roots if not any(other in root.parents for other in roots)]
    if not roots:
        raise UserError(
            f"{source}: no dataset in it; there must be images/ and masks/ (or IRSTD1k_Img/ and "
            "IRSTD1k_Label/, or trainval/ and test/ with images/ and masks/ in each)"
        )
    if len(roots) > 1:
        names = listed([str(root.relative_to(folder)) for root in roots])
        cure = "name one of them" if folder == source else "unpack it and name one of them"
        raise UserError(f"{source}: {len(roots)} datasets in it ({names}); {cure}")
    found = Found(roots[0], _layouts(roots[0]))
    _find_lists(found, share, seed)
    return found


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


def _find_lists(found: Found, share: float, seed: int) -> None:
    """Fills `names`: from lists, from folders, and else by lot."""
    shared = len({layout.images for layout in found.layouts.values()}) < len(found.layouts)
    for split, layout in found.layouts.items():
        if layout.list is None and shared:
            continue
        names = layout.names()
        found.names[split] = list(dict.fromkeys(names))
        place = (layout.list or layout.images).relative_to(found.folder)
        found.notes.append(f"{split} list: {place}, {len(names)} names")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            found.notes.append(f"  named more than once, kept once: {listed(twice, SHOWN)}")
    missing = [split for split in SPLITS if split not in found.names]
    layout = next(iter(found.layouts.values()))
    if not missing:
        return
    listed_already = {name for names in found.names.values() for name in names}
    rest = sorted(index_files(layout.images).keys() - listed_already)
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


def _read(found: Found, num_workers: int) -> dict[str, list[_Facts]]:
    """All pairs of all lists, without their arrays."""
    read = {}
    for split, names in found.names.items():
        bar = tqdm(read_pairs(names, found.layouts[split], num_workers), f"reading {split}",
                   len(names), unit="image", leave=False, disable=None)
        read[split] = [_facts(pair) for pair in bar]
    return read


def _facts(pair: Pair) -> _Facts:
    facts = _Facts(pair.name, problems=pair.problems, files=pair.files)
    if not pair.problems:
        facts.shape, facts.bits = pair.image.shape, 8 * pair.image.itemsize
        facts.grey = has_grey(pair.levels)
        content = np.ascontiguousarray(pair.image).tobytes() + repr(facts.shape).encode()
        facts.digest = hashlib.sha256(content).hexdigest()
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
    folder: Path, files: Mapping[str, Path], lists: Mapping[str, Sequence[str]], copy: bool
) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for place, file in files.items():
        if copy:
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
        f"{images.relative_to(found.folder)}/ and {masks.relative_to(found.folder)}/"
        for images, masks in folders))
    naming = Counter(pair.files[1].stem[len(pair.name):] for pair in good)
    yield "masks named: " + ", ".join(
        f"NAME{suffix} ({naming[suffix]})" for suffix in SUFFIXES if naming[suffix])
    yield from found.notes
    unlisted = set(index_files(layout.images)) - {
        name for split, names in found.names.items() for name in names}
    if unlisted and len(folders) == 1:
        yield f"on no list, left out: {listed(sorted(unlisted), SHOWN)}"
    grey = [pair.name for pair in good if pair.grey]
    yield f"masks with grey values, target above half of full scale: {len(grey)}"
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

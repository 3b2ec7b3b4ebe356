"""prepare_dataset.py on made-up trees in the shapes of the public datasets."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT, assert_same_arrays, assert_written, complaint, prints, succeeds
from test_datasets import assert_rows, relay, rename, soften, write

import cal_metrics
from utils.data.decoding import KINDS
from utils.data.images import read_gray
from utils.data.layouts import layout_of
from utils.data.pairs import read_pairs
from utils.data.prepare import prepare
from utils.datasets import load_splits
from utils.errors import UserError

IRSTD = {"img_idx/train_IRSTD-1K.txt": ["03", "00", "01"], "img_idx/test_IRSTD-1K.txt": ["02"]}


@pytest.fixture
def irstd(tmp_path):
    """IRSTD-1K as published, with the official lists, two folders down; one mask has grey edges."""
    folder = tmp_path / "download" / "IRSTD-1k-main" / "IRSTD-1k"
    write(folder, [(16, 16)] * 4)
    relay(folder, "IRSTD1k_Img", "IRSTD1k_Label", lists=IRSTD)
    soften(folder / "IRSTD1k_Label" / "01.png")
    return folder


def zipped(folder):
    return shutil.make_archive(str(folder), "zip", folder)


def lists(tmp_path, name="A"):
    """The names on both lists of a prepared dataset."""
    return tuple(split.names for split in load_splits(tmp_path / "data", name))


@pytest.mark.parametrize("way", ["linked", "copied", "zip"])
def test_irstd_1k_in_one_command(tmp_path, irstd, way, prepare_script):
    source = tmp_path / "download"
    if way == "zip":
        source = zipped(source)
    flags = [source, "--name", "IRSTD-1K", *(["--copy"] if way == "copied" else [])]
    output = prepare_script(*flags)
    data = tmp_path / "data" / "IRSTD-1K"
    assert output == (data / "prepared.txt").read_text() + (
        f"{data}: ready; train with --dataset_name IRSTD-1K\n")
    assert output.splitlines()[:-1] == [
        f"{source}: 4 images with masks, 16x16, 8 bit",
        "folders: IRSTD1k_Img/ and IRSTD1k_Label/",
        "masks named: NAME (4)",
        "train list: img_idx/train_IRSTD-1K.txt, 3 names",
        "test list: img_idx/test_IRSTD-1K.txt, 1 names",
        "masks with grey values, target above half of full scale: 1",
        output.splitlines()[6],
        "images in both lists: 0",
        "images that are pixel for pixel the same: 0",
        "pairs left out: 0",
        "written: 3 on train.txt, 1 on test.txt",
    ]
    assert output.splitlines()[6].startswith("targets brighter than what is around them: ")
    assert sorted(p.name for p in data.iterdir()) == [
        "images", "masks", "prepared.txt", "test.txt", "train.txt"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["IRSTD-1K"]
    assert all(p.is_symlink() == (way == "linked") for p in (data / "masks").iterdir())
    for prepared, raw in zip(load_splits(tmp_path / "data", "IRSTD-1K"),
                             load_splits(irstd.parent, irstd.name)):
        assert prepared.names == raw.names
        for ours, theirs in ((prepared.images, raw.images), (prepared.masks, raw.masks)):
            assert_same_arrays(dict(enumerate(ours)), dict(enumerate(theirs)))
        assert_same_arrays(prepared.levels, raw.levels)

    before = {p: p.lstat().st_mtime_ns for p in data.rglob("*")}
    again = prepare_script(*flags)
    assert f"{data}: was prepared before, nothing changed\n" in again
    assert {p: p.lstat().st_mtime_ns for p in data.rglob("*")} == before


def test_nuaa_sirst_with_a_mask_of_another_size(tmp_path):
    source = tmp_path / "NUAA"
    write(source, [(20, 30), (31, 22), (16, 16), (18, 19), (20, 30)])
    (source / "images" / "04.png").write_bytes((source / "images" / "00.png").read_bytes())
    Image.new("L", (30, 21)).save(source / "masks" / "03.png")
    relay(source, suffix="_pixels0", lists={
        "img_idx/train_NUAA-SIRST.txt": ["00", "01", "03", "00"],
        "img_idx/test_NUAA-SIRST.txt": ["02", "04", "01", "77"]})
    text = prepare(source, tmp_path / "data" / "NUAA-SIRST")
    for line in (
        f"{source}: 4 images with masks, 3 sizes from 16x16 to 22x31, 8 bit",
        "masks named: NAME_pixels0 (4)",
        "  named more than once, kept once: 00",
        "images in both lists: 1: 01",
        "images that are pixel for pixel the same: 1: 00 = 04",
        "pairs left out: 2",
        f"  {source}/masks/03_pixels0.png: the mask is 30x21 but the image is 19x18 (width x "
        "height); give both the same size",
        f"  {source}/images/77: no such image ({KINDS}); add the file",
        "written: 2 on train.txt, 3 on test.txt",
    ):
        assert f"{line}\n" in text
    train, test = load_splits(tmp_path / "data", "NUAA-SIRST")
    assert (train.names, test.names) == (["00", "01"], ["02", "04", "01"])
    assert all(mask.sum() == 4 for mask in train.masks + test.masks)


@pytest.mark.parametrize("places, layout", [
    (("trainval", "test"), {"suffix": "_mask"}),
    (("train", "val"), {"images": "img", "masks": "label"}),
], ids="sirst-aug by-flags".split())
def test_a_folder_for_each_list_with_names_that_meet(tmp_path, prepare_script, places, layout):
    source = tmp_path / "set"
    flags = [] if "suffix" in layout else ["--images", "img", "--masks", "label"]
    write(source / places[0], [(8, 8)] * 3)
    write(source / places[1], [(9, 9)] * 2)
    rename(source / places[1], "01", "07")
    for place in places:
        relay(source / place, **layout)
    text = prepare_script(source, "--name", "A", *flags)
    if not flags:
        assert "train list: trainval/images, 3 names\ntest list: test/images, 2 names\n" in text
    train, test = load_splits(tmp_path / "data", "A")
    assert (train.names, test.names) == (["train_00", "01", "02"], ["test_00", "07"])
    for split, place in ((train, places[0]), (test, places[1])):
        for name, image in zip(split.names, split.images):
            file = source / place / layout.get("images", "images") / f"{name[-2:]}.png"
            np.testing.assert_array_equal(image, np.asarray(Image.open(file)))


def test_lists_are_drawn_where_there_are_none(tmp_path):
    source = tmp_path / "plain"
    write(source, [(8, 8)] * 10)
    relay(source)
    drawn = []
    for name, fraction, seed in (("A", 0.7, 1), ("B", 0.7, 1), ("C", 0.7, 2), ("D", 0.2, 1)):
        text = prepare(source, tmp_path / "data" / name, fraction=fraction, seed=seed)
        assert f"lists: not there; drawn by --split {fraction} --seed {seed}: " in text
        train, test = lists(tmp_path, name)
        assert sorted(train + test) == [f"{i:02d}" for i in range(10)]
        drawn.append(train)
    assert drawn[0] == drawn[1] != drawn[2] and [len(names) for names in drawn] == [7, 7, 7, 2]
    for name, on_list, says, sizes in (
        ("E", (4, 2), "; made of the 8 other images\n", [2, 8]),
        ("F", range(10), ", and no image is left for it; both are drawn from the list", [5, 5]),
    ):
        (source / "train.txt").write_text("".join(f"{i:02d}\n" for i in on_list))
        assert f"test list: not there{says}" in prepare(source, tmp_path / "data" / name)
        assert [len(names) for names in lists(tmp_path, name)] == sizes
    (tmp_path / "half").mkdir()
    source.rename(tmp_path / "half" / "trainval")  # and no test/ beside it
    prepare(tmp_path / "half", tmp_path / "data" / "G")
    assert [len(names) for names in lists(tmp_path, "G")] == [5, 5]


# Trees that no layout has


def test_folders_and_suffixes_by_flags(tmp_path, prepare_script):
    source = tmp_path / "VOC"
    images, masks = write(source, [(16, 16)] * 4)
    relay(source, "JPEGImages", "SegmentationClass", lists={})
    (source / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, names in (("train", "03\n00\n"), ("val", "01\n02\n"), ("trainval", "00\n01\n")):
        (source / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(names)
    flags = ["--name", "A", "--images", "JPEGImages", "--masks", source / "SegmentationClass"]
    output = prepare_script(source, *flags)
    assert ("train list: ImageSets/Segmentation/train.txt, 2 names\n"
            "test list: ImageSets/Segmentation/val.txt, 2 names\n") in output
    train, test = load_splits(tmp_path / "data", "A")
    assert (train.names, test.names) == (["03", "00"], ["01", "02"])
    np.testing.assert_array_equal(test.images[1], images[2])
    with pytest.raises(UserError, match=f"^--images JPEG: no such folder in {source}; give"):
        prepare_script(source, "--name", "B", "--images", "JPEG")
    with pytest.raises(UserError, match="needs a folder of images too; name it with --images"):
        prepare_script(source, "--name", "B", "--masks", "SegmentationClass")


@pytest.mark.parametrize("image, mask, flags", [
    ("", "_gt", ["--mask_suffix", "_gt"]), ("_ir", "_gt.png", ["--image_suffix", "_ir",
                                                              "--mask_suffix", "_gt.png"]),
    ("_ir", "", ["--image_suffix", "_ir.png", "--mask_suffix", ""])])
def test_image_and_mask_in_one_folder(tmp_path, image, mask, flags, prepare_script):
    source = tmp_path / "mixed"
    images, masks = write(source, [(16, 16)] * 4)
    (source / "train.txt").write_text("03\n00" + f"{image}.png\n")
    for kind, suffix in (("images", image), ("masks", mask.replace(".png", ""))):
        for path in (source / kind).iterdir():
            path.rename(source / f"{path.stem}{suffix}.png")
        (source / kind).rmdir()
    prepare_script(source, "--name", "A", "--images", ".", *flags)
    for split, rows in zip(load_splits(tmp_path / "data", "A"), ([3, 0], [1, 2])):
        assert split.names == [f"{row:02d}" for row in rows]
        assert_rows(split, rows, images, masks)
    with pytest.raises(UserError, match="tell them apart with --image_suffix and --mask_suffix"):
        prepare_script(source, "--name", "B", "--images", ".")


@pytest.mark.parametrize("flags", [(), ("--images", "images", "--masks", "masks")])
def test_folders_of_the_lists_below_those_of_the_kinds(tmp_path, flags, prepare_script):
    source = tmp_path / "yolo"
    images, _ = write(source, [(16, 16)] * 3)
    (source / "train.txt").unlink()
    for name, place in (("00", "train/00"), ("01", "val/01"), ("02", "train/02")):
        rename(source, name, place)
    output = prepare_script(source, "--name", "A", *flags)
    assert "train list: not there; the 2 images of images/train/\n" in output
    train, test = load_splits(tmp_path / "data", "A")
    assert (train.names, test.names) == (["train/00", "train/02"], ["val/01"])
    np.testing.assert_array_equal(test.images[0], images[1])


def test_irdst_through_all_scripts(tmp_path):
    """Names in folders, as BasicIRSTD ships IRDST."""
    source = tmp_path / "IRDST"
    write(source, [(32, 32)] * 6)
    names = [f"{43 + index % 2}/1({810 + index // 2})" for index in range(6)]
    for index, name in enumerate(names):
        rename(source, f"{index:02d}", name)
    (source / "train.txt").write_text("".join(f"/{name}\n" for name in names[:4]))
    (source / "test.txt").write_text("".join(f"/{name}\n" for name in names[4:]))
    prepare(source, tmp_path / "data" / "Tiny")
    assert lists(tmp_path, "Tiny") == (names[:4], names[4:])
    model = ["--model_name", "L2SKNet_1D_UNet"]
    succeeds("test.py", tmp_path, *model, "--weights",
             ROOT / "model" / "pretrained" / "NUDT-SIRST" / f"{model[1]}.npz")
    result = tmp_path / "out" / "result"
    assert_written(result / "Tiny", model[1], names[4:], ("img", "mat"))
    assert "2 .mat in " in prints(cal_metrics.main, tmp_path, *model, "--worst", 2)
    assert {path.name[2:] for path in (result / "Tiny" / "worst" / model[1]).iterdir()} == {
        "43_1(812).png", "44_1(812).png"}
    table = (result / f"Tiny_{model[1]}_per_image.csv").read_text()
    assert all(f"\n{name}," in table for name in names[4:])


def test_masks_of_the_same_ratio_are_fitted_by_choice(tmp_path, prepare_script):
    source = tmp_path / "set"
    write(source, [(22, 33), (16, 16), (16, 20), (16, 16)])
    Image.fromarray(np.kron(np.asarray(Image.open(source / "masks" / "00.png")),
                            np.ones((2, 2), np.uint8))[:40, :59]).save(source / "masks" / "00.png")
    Image.new("L", (40, 30)).save(source / "masks" / "02.png")
    line = f"  {source}/masks/00.png: the mask is 59x40 but the image is 33x22 (width x height); "
    assert f"{line}give both the same size, or let python prepare_dataset.py FOLDER --name " \
        "NEW_NAME --fit_masks resize the mask\n" in prepare(source, tmp_path / "data" / "A")
    output = prepare_script(source, "--name", "B", "--fit_masks")
    assert "masks brought to the size of their image: 1: 00 (59x40 to 33x22)\n" in output
    assert f"{source}/masks/02.png: the mask is 40x30 but the image is 20x16" in output
    assert sorted(sum(lists(tmp_path, "B"), [])) == ["00", "01", "03"]
    mask = np.asarray(Image.open(tmp_path / "data" / "B" / "masks" / "00.png"))
    assert mask.shape == (22, 33) and set(np.unique(mask)) == {0, 255}
    assert "was prepared before" in prepare_script(source, "--name", "B", "--fit_masks")


def test_masks_of_other_images_are_suspected(tmp_path):
    for name, shift in (("right", 0), ("wrong", 1)):
        rng = np.random.default_rng(1)
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        for index in range(20):
            image = rng.integers(80, 120, (64, 64), dtype=np.uint8)
            mask = np.zeros((64, 64), np.uint8)
            y, x = rng.integers(8, 54, 2)
            mask[y : y + 3, x : x + 3] = 255
            image[mask > 0] = 200 if index % 4 else 10
            Image.fromarray(image).save(tmp_path / name / "images" / f"{index:02d}.png")
            Image.fromarray(mask).save(
                tmp_path / name / "masks" / f"{(index + shift) % 20:02d}.png")
    text = prepare(tmp_path / "right", tmp_path / "data" / "A")
    assert "targets brighter than what is around them: 15 of 20, darker: 5\n" in text
    assert "WARNING" not in text
    text = prepare(tmp_path / "wrong", tmp_path / "data" / "B")
    assert "% of the targets stand out (NUDT-SIRST: 98 % with its own masks, 12 % with masks " \
        "of other images); check that image and mask of a name belong together\n" in text


def test_exif_orientations_that_differ_are_named(tmp_path):
    write(tmp_path / "set", [(16, 16)] * 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "set" / "images" / "01.png"
    Image.open(path).save(path, exif=exif)
    assert ("WARNING: image and mask with different EXIF orientations, which are ignored: 1: 01\n"
            in prepare(tmp_path / "set", tmp_path / "data" / "A"))


@pytest.mark.parametrize("encoding, slash", [("gbk", "\\"), ("utf-8", "/"), ("ascii", "\\")])
def test_a_zip_with_names_of_windows_in_china_or_of_macos(
        tmp_path, monkeypatch, encoding, slash, prepare_script):
    monkeypatch.setattr(zipfile.ZipInfo, "_encodeFilenameFlags",
                        lambda entry: (entry.filename.encode("cp437"), 0))  # no flag for UTF-8
    source = tmp_path / "set"
    images, _ = write(source, [(16, 16)] * 3)
    names = ["\u7ea2\u5916_1", "\u76ee\u680700", "\u661e"]  # the last has a 0x5C in GBK
    assert b"\\" in names[2].encode("gbk")
    top = "\u6570\u636e"
    if encoding == "ascii":
        names, top = ["a", "b", "c"], "set"
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("./"), b"")
        archive.writestr(zipfile.ZipInfo(f"a{slash}"), b"")
        for index, name in enumerate(names):
            for kind in ("images", "masks"):
                entry = zipfile.ZipInfo("x")
                place = slash.join((top, kind, f"{name}.png"))
                entry.filename = place.encode(encoding).decode("cp437")
                data = (source / kind / f"{index:02d}.png").read_bytes()
                archive.writestr(entry, data[:40] if (kind, index) == ("masks", 1) else data)
        archive.writestr(zipfile.ZipInfo("a/train.txt"), b"")
    output = prepare_script(path, "--name", "A")
    assert (f"names of files in the zip: {encoding.upper()}\n" in output) == (encoding != "ascii")
    assert f"  {path}: {top}/masks/{names[1]}.png: cannot be read as an image" in output
    assert ".A-" not in output
    found = {name: image for split in load_splits(tmp_path / "data", "A")
             for name, image in zip(split.names, split.images)}
    assert found.keys() == {names[0], names[2]}
    np.testing.assert_array_equal(found[names[2]], images[2])


def test_nuaa_sirst_as_published(tmp_path, nuaa):
    text = prepare(nuaa, tmp_path / "data" / "A", fit_masks=True)
    assert "masks brought to the size of their image: 1: Misc_111 (592x400 to 325x220)\n" in text
    assert "written: 213 on train.txt, 214 on test.txt\n" in text and "WARNING" not in text
    mask = np.asarray(Image.open(tmp_path / "data" / "A" / "masks" / "Misc_111.png"))
    assert mask.shape == (220, 325) and mask.any()


# Refused, and nothing written


def refused(tmp_path, source):
    before = {p: p.lstat().st_mtime_ns for p in (tmp_path / "data").glob("*/**")}
    message = complaint(prepare, source, tmp_path / "data" / "NEW")
    assert {p: p.lstat().st_mtime_ns for p in (tmp_path / "data").glob("*/**")} == before
    return message


def test_another_dataset_of_this_name_is_left_alone(tmp_path, irstd):
    prepare(irstd, tmp_path / "data" / "NEW")
    soften(irstd / "IRSTD1k_Label" / "02.png")  # linked: the dataset of both
    prepare(irstd, tmp_path / "data" / "NEW")
    other = tmp_path / "other"
    write(other, [(8, 8)] * 4)
    target = tmp_path / "data" / "NEW"
    assert refused(tmp_path, other) == (
        f"{target}: exists already, with other content; remove it, or take another --name")
    assert refused(tmp_path, target).startswith(f"{target}: the result would have this path")


def test_sources_without_one_dataset(tmp_path, irstd):
    assert refused(tmp_path, tmp_path / "none").startswith(f"{tmp_path}/none: no such folder or")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path, tmp_path / "empty").startswith(f"{tmp_path}/empty: no dataset in it;")
    write(irstd.parent / "Second", [(8, 8)] * 2)
    assert refused(tmp_path, irstd.parent) == (
        f"{irstd.parent}: 2 datasets in it (IRSTD-1k, Second); name one of them")
    sirst = tmp_path / "sirst_aug"
    write(sirst / "trainval", [(8, 8)] * 2)
    for kind in ("images", "masks"):
        (sirst / "test" / kind).mkdir(parents=True)
    assert refused(tmp_path, sirst) == (f"{sirst}/test/images: no image in this folder ({KINDS}); "
                                        "add the images of the list")


def test_a_list_without_a_usable_image_is_refused(tmp_path):
    write(tmp_path / "S", [(8, 8)] * 3)
    (tmp_path / "S" / "train.txt").write_text("00\n01\n")
    (tmp_path / "S" / "test.txt").write_text("02\n")
    (tmp_path / "S" / "masks" / "02.png").write_bytes(b"no picture")
    assert refused(tmp_path, tmp_path / "S").startswith(
        f"{tmp_path}/S: no image of the test list can be used; the first: "
        f"{tmp_path}/S/masks/02.png: cannot")


def test_names_that_would_meet_are_refused(tmp_path):
    """trainval/test_a.png and, of two different a.png, the one on the test list."""
    for folder, names in (("trainval", ("a", "test_a")), ("test", ("a", "b"))):
        write(tmp_path / "S" / folder, [(8, 8), (9, 9)])
        for index, name in enumerate(names):
            rename(tmp_path / "S" / folder, f"{index:02d}", name)
        (tmp_path / "S" / folder / "train.txt").unlink()
    assert "test/images/a.png: would have the name test_a of " in refused(tmp_path, tmp_path / "S")


def test_what_is_passed_over_is_named(tmp_path, prepare_script):
    source = tmp_path / "S"
    write(source, [(8, 8)] * 4)
    for kind in ("images", "masks"):
        (source / kind / "deep" / "b" / "c" / "d" / "e" / "f").mkdir(parents=True)
    rename(source, "01", "deep/b/c/d/e/f/01")
    (source / "train.txt").unlink()
    images = source / "images"
    shutil.copy(images / "00.png", images / "00.bmp")
    (images / "c.jp2").write_bytes(b"?")
    (images / "notes.txt").write_text("no image")
    shutil.copy(source / "masks" / "00.png", source / "masks" / "zzz.png")
    (images / "latest").symlink_to(images)
    printed = prepare_script(source, "--name", "A")
    assert ("files that are no image of the dataset and no mask of one, left out: 3: "
            "images/00.bmp, images/c.jp2, masks/zzz.png\n") in printed
    assert sorted(name for names in lists(tmp_path) for name in names) == [
        "00", "02", "03", "deep/b/c/d/e/f/01"]


def test_names_that_a_list_cannot_hold_are_found(tmp_path, prepare_script):
    write(tmp_path / "S", [(8, 8)] * 4)
    for index, name in enumerate(("a ", "b\u200b", "c\u00ad d")):
        rename(tmp_path / "S", f"{index:02d}", name)
    (tmp_path / "S" / "train.txt").unlink()
    prepare_script(tmp_path / "S", "--name", "A")
    assert sorted(name for names in lists(tmp_path) for name in names) == [
        "03", "a ", "b\u200b", "c\u00ad d"]


def test_images_are_not_all_in_memory_at_once(tmp_path, monkeypatch):
    write(tmp_path / "S", [(8, 8)] * 40)
    read, most = [], 0
    monkeypatch.setattr("utils.data.pairs.read_gray",
                        lambda path: read.append(path) or read_gray(path))
    for used, _ in enumerate(read_pairs([f"{i:02d}" for i in range(40)],
                                        layout_of(tmp_path / "S", "train"), "", num_workers=2)):
        if not used:
            time.sleep(0.3)  # threads that read on could read all of them
        most = max(most, len(read) - used)
    assert len(read) == 40 and most <= 2 * 2 + 2


def test_sigterm_leaves_no_folder(tmp_path):
    write(tmp_path / "S", [(8, 8)] * 4)
    code = ("import os, runpy, signal\n"
            "from utils.data import prepare\n"
            "prepare._write = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
            "runpy.run_path('prepare_dataset.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "S"), "--name", "A",
                           "--dataset_dir", str(tmp_path / "data")], cwd=ROOT)
    assert done.returncode == 130 and not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.txt", "..\\e.png"])
def test_a_zip_cannot_write_outside(tmp_path, irstd, name):
    path = zipped(irstd)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    text = refused(tmp_path, tmp_path.joinpath(path))
    shown = name.replace("\\", "/")
    assert f"its file {shown} would be written outside" in text and text.startswith(f"{path}: ")
    assert not list(tmp_path.rglob("e*.png")) and not list(tmp_path.rglob("evil*"))


def test_a_zip_with_links_or_damage(tmp_path, irstd):
    path = tmp_path.joinpath(zipped(irstd))
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("images")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    assert "its file images is a link" in refused(tmp_path, path)
    packed = []
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("images/a.png", bytes(range(256)) * 40)
        data = bytearray(path.read_bytes())
        data[60:90] = bytes(30)
        packed.append(bytes(data))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/\u00e4.png", b"")
    packed.append(path.read_bytes().replace("\u00e4".encode(), b"\xff\xff"))
    for content in (whole[:-400], b"no zip", b"", whole[:200] + b"\0" * 60 + whole[260:], *packed):
        path.write_bytes(content)
        text = refused(tmp_path, path)
        assert text.startswith(f"{path}: ") and ("download it anew" in text or "no dataset" in text)


def test_names_that_are_no_folder(prepare_script, capsys):
    for name in ("../X", "a/b", ".hidden", "", "."):
        with pytest.raises(SystemExit) as error:
            prepare_script("source", "--name", name)
        assert error.value.code == 2
        assert f"--name: {name}: must be a plain folder name; leave" in capsys.readouterr().err


def test_boxes_by_hand(tmp_path, irstd, prepare_script):
    mask = np.zeros((16, 16), np.uint8)
    mask[0, 0] = mask[1, 1] = 255  # touch by a corner: one target
    mask[9:12, 4:6] = 255
    mask[9, 6] = 100  # grey, below half
    mask[15, 15] = 255
    Image.fromarray(mask).save(irstd / "IRSTD1k_Label" / "02.png")
    Image.fromarray(mask * 0).save(irstd / "IRSTD1k_Label" / "00.png")
    output = prepare_script(irstd, "--name", "X", "--boxes")
    path = tmp_path / "out" / "result" / "X_test_boxes.json"
    assert f"{path}: 3 boxes in 1 images\n" in output
    first = json.loads(path.read_text())
    assert first["images"] == [{"id": 1, "file_name": "02.png", "width": 16, "height": 16}]
    assert first["categories"] == [{"id": 1, "name": "target"}]
    assert [(a["id"], a["image_id"], a["bbox"], a["area"]) for a in first["annotations"]] == [
        (1, 1, [0, 0, 2, 2], 2), (2, 1, [4, 9, 2, 3], 6), (3, 1, [15, 15, 1, 1], 1)]
    train = json.loads(path.with_name("X_train_boxes.json").read_text())
    assert [image["file_name"] for image in train["images"]] == ["03.png", "00.png", "01.png"]
    assert [a["image_id"] for a in train["annotations"]] == [1, 3]
    path.unlink()
    data = tmp_path / "data" / "X"
    output = prepare_script(data, "--name", "X", "--boxes")
    assert output.count("\n") == 2 and json.loads(path.read_text()) == first

"""Masks from boxes and points: the rule, and prepare_dataset.py --masks_from."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scripts import complaint

from utils.data.annotations import Box
from utils.data.boxes import target_in
from utils.data.layouts import find_layout
from utils.data.pairs import read_pairs
from utils.datasets import load_splits
from utils.errors import UserError

SHAPE = (40, 48)  # height, width


def blob(y, x, width=1.5):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))


def region(image, box):
    mask = np.zeros(image.shape, bool)
    window, target = target_in(image, box)
    mask[window] = target
    return mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# The rule


@pytest.mark.parametrize("sign", [1, -1], ids=["brighter", "darker"])
@pytest.mark.parametrize("dtype, scale", [(np.uint8, 1), (np.uint16, 250)])
def test_a_target_on_a_slope(sign, dtype, scale):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    noise = np.random.default_rng(0).normal(0, 0.5, SHAPE)
    level = 110 + rows - columns + sign * (80 * blob(20, 15) + 90 * blob(20, 27)) + noise
    image = np.rint(scale * level).astype(dtype)
    truth = blob(20, 15) >= 0.3
    assert truth.sum() == 21
    # A tight box has light of its target in the ring; the stronger target beside it stays outside.
    for more, least in ((0, 0.7), (1, 0.95), (2, 0.95), (3, 0.95)):
        box = Box(13 - more, 18 - more, 18 + more, 23 + more)
        assert iou(region(image, box), truth) > least, more
    for x, y in ((15.5, 20.5), (14.0, 21.9)):
        assert iou(region(image, Box(x, y, x, y)), truth) > 0.95


def test_boxes_that_leave_nothing_to_decide():
    flat = np.full(SHAPE, 50, np.uint8)
    assert region(flat, Box(3, 4, 6, 9)).sum() == 15  # no contrast: the whole box
    assert region(flat, Box(3.4, 4.4, 3.6, 4.6)).sum() == 1  # less than a pixel
    flat[0, 47] = 200
    for box in (Box(46, -1, 49, 3), Box(0, 0, 48, 40), Box(47.9, 0.1, 47.9, 0.1)):
        assert np.argwhere(region(flat, box)).tolist() == [[0, 47]]


@pytest.mark.parametrize("dataset, every, expected", [
    ("nudt", 4, (0.881, 0.781, 0.761)), ("nuaa", 1, (0.836, 0.756, 0.746))])
def test_iou_of_real_targets(request, dataset, every, expected):
    """The table in docs/usage.md: tight boxes, boxes too large by 2 pixels, and points.

    The table has the whole list of NUDT-SIRST, this test every fourth image.
    """
    folder = request.getfixturevalue(dataset)
    layout = find_layout(folder, "test")
    pairs = read_pairs(layout.names()[::every], layout, "reading")
    found = [[], [], []]
    for image, levels in ((pair.image, pair.levels) for pair in pairs if not pair.problems):
        labels, _ = ndimage.label(levels > 127, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            truth = labels == number
            y, x = np.argwhere(truth).mean(0) + 0.5
            for ious, box in zip(found, (
                    *(Box(columns.start - more, rows.start - more, columns.stop + more,
                          rows.stop + more) for more in (0, 2)), Box(x, y, x, y))):
                ious.append(iou(region(image, box), truth))
    assert tuple(map(np.mean, found)) == pytest.approx(expected, abs=0.002)


# prepare_dataset.py --masks_from


TARGETS = {"a": [(10, 12), (30, 40)], "b": [], "night/c": [(25, 8)]}
BOXES = {name: [(x - 3, y - 2, 7, 6) for y, x in own] for name, own in TARGETS.items()}


@pytest.fixture
def frames(tmp_path):
    """Three images in frames/, one without a target; two lists, and no masks."""
    for name, own in TARGETS.items():
        image = np.rint(60 + sum((100 * blob(*each) for each in own), np.zeros(SHAPE)))
        path = tmp_path / "frames" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    (tmp_path / "frames" / "train.txt").write_text("a\nb\n")
    (tmp_path / "frames" / "test.txt").write_text("night/c\n")
    return tmp_path / "frames"


def coco(boxes=BOXES, **more):
    return json.dumps({
        "images": [{"id": 7 + index, "file_name": f"C:\\x\\{name}.png", "width": 48, "height": 40}
                   for index, name in enumerate(boxes)],
        "annotations": [{"image_id": 7 + index, "bbox": box, **more}
                        for index, own in enumerate(boxes.values()) for box in own]})


def write_all(folder, extension, content):
    for name, own in BOXES.items():
        path = folder / f"{name}{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content(own))


def yolo(own):
    return "".join(f"0 {(x + w / 2) / 48:.6f} {(y + h / 2) / 40:.6f} {w / 48:.6f} {h / 40:.6f}\n"
                   for x, y, w, h in own)


def voc(own):
    objects = "".join(
        f"<object><name>t</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}"
        f"</xmax><ymax>{y + h}</ymax></bndbox></object>" for x, y, w, h in own)
    return (f"<annotation><size><width>48</width><height>40</height></size>{objects}"
            "</annotation>")


def masks_of(tmp_path, name):
    return {image: mask for split in load_splits(tmp_path / "data", name)
            for image, mask in zip(split.names, split.masks)}


def assert_masks(tmp_path, name):
    """The masks of a prepared dataset are the pixels of the `TARGETS` by the rule."""
    found = masks_of(tmp_path, name)
    assert found.keys() == TARGETS.keys()
    for image, own in TARGETS.items():
        truth = sum((blob(*each) >= 0.3 for each in own), np.zeros(SHAPE, bool))
        np.testing.assert_array_equal(found[image], truth, err_msg=f"{name} {image}")


def test_all_formats_give_the_same_masks_and_boxes_come_back(tmp_path, frames, prepare_script):
    (tmp_path / "coco.json").write_text(coco())
    write_all(frames, ".txt", yolo)  # beside the images, as LabelImg writes them
    (frames / "classes.txt").write_text("target\n")
    write_all(tmp_path / "voc", ".xml", voc)
    for name, place, kind in (("COCO", tmp_path / "coco.json", "COCO"), ("YOLO", ".", "YOLO"),
                              ("VOC", tmp_path / "voc", "VOC")):
        output = prepare_script(frames, "--name", name, "--images", ".", "--masks_from", place,
                                "--boxes")
        assert (f"masks made from {kind}: 3 boxes and 0 points in 2 images\n  rule: 8-connected "
                "pixels of at least 0.3 of the highest contrast to the plane through the ring of 2 "
                "pixels around the box\n  images without box or point, so without target: 1: b\n"
                ) in output
        assert "pairs left out: 0\n" in output
        assert output.startswith((tmp_path / "data" / name / "prepared.txt").read_text())
        assert_masks(tmp_path, name)
        made = [path for path in (tmp_path / "data" / name / "masks").rglob("*.png")]
        assert len(made) == 3 and not any(path.is_symlink() for path in made)
        assert (tmp_path / "data" / name / "images" / "a.png").is_symlink()
    assert "was prepared before" in prepare_script(
        frames, "--name", "VOC", "--images", ".", "--masks_from", tmp_path / "voc")
    lists = frames / "ImageSets" / "Main"  # as Pascal VOC with boxes has them
    lists.mkdir(parents=True)
    for split, own in ("train", "train"), ("test", "val"):
        (frames / f"{split}.txt").rename(lists / f"{own}.txt")
    output = prepare_script(frames, "--name", "MAIN", "--images", ".", "--masks_from",
                            tmp_path / "voc")
    assert "train list: ImageSets/Main/train.txt, 2 names\ntest list: ImageSets/Main/val" in output

    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for split in ("train", "test"):
        (tmp_path / "out" / "result" / f"COCO_{split}_boxes.json").rename(boxes / f"{split}.json")
    output = prepare_script(tmp_path / "data" / "COCO", "--name", "AGAIN", "--masks_from", boxes)
    assert "masks made from COCO: 3 boxes" in output and "train list: train.txt" in output
    assert_masks(tmp_path, "AGAIN")


def test_points_and_a_folder_for_each_list_in_a_zip(tmp_path, frames, prepare_script):
    points = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [
        {"image_id": 1, "keypoints": [13, 11, 2, 0, 0, 0, 40, 30, 1]}]}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for place, image in (("train", "a"), ("test", "night/c")):
            archive.write(frames / f"{image}.png", f"{place}/images/{image[-1]}.png")
        archive.writestr("test/images/bad.png", b"no picture")
        archive.writestr("train/boxes/p.json", json.dumps(points))
        archive.writestr("test/boxes/p.json", coco({"c": BOXES["night/c"]}))
    output = prepare_script(tmp_path / "set.zip", "--name", "A", "--masks_from", "boxes")
    assert "masks made from COCO: 1 boxes and 2 points in 2 images\n" in output
    assert "pairs left out: 1\n" in output and "test/images/bad.png: cannot be read" in output
    for name, image in (("a", "a"), ("c", "night/c")):
        truth = sum(blob(*each) >= 0.3 for each in TARGETS[image])
        np.testing.assert_array_equal(masks_of(tmp_path, "A")[name], truth)


def test_what_tools_export(tmp_path, frames, prepare_script):
    def polygon(own):
        return "".join("0 " + " ".join(f"{u / 48:.6f} {v / 40:.6f}" for u, v in (
            (x, y + 1), (x + w, y), (x + w - 1, y + h), (x + 1, y + h))) + "\n"
            for x, y, w, h in own)

    def sizes(own):
        return voc(own).replace("<width>48<", "<width><").replace(">40<", ">40.0<")

    bare = {name.rsplit("/", 1)[-1]: own for name, own in BOXES.items()}  # without their folders
    for place, extension, content in (
            ("confidence", "txt", lambda own: yolo(own).replace("\n", " 0.87\n")),
            ("polygons", "TXT", polygon), ("sizes", "xml", sizes)):
        (tmp_path / place).mkdir()
        for name, own in bare.items():
            (tmp_path / place / f"{name}.{extension}").write_text(content(own))
        (tmp_path / place / "README.roboflow.txt").write_text("exported")
    points = {name: [(x + 3, y + 2, 0, 0) for x, y, _, _ in own] for name, own in bare.items()}
    for name, content in ("readme", coco(bare)), ("points", coco(points, keypoints=[13, 11, 2])):
        content = content.replace(r"C:\\x\\", "").replace('"image_id": 7', '"image_id": "7"')
        (tmp_path / f"{name}.json").write_text(content.replace(": 48,", ': "48",'))
    for name in ("confidence", "polygons", "sizes", "readme.json"):
        prepare_script(frames, "--name", name, "--images", ".", "--masks_from", tmp_path / name)
        assert_masks(tmp_path, name)
    assert "COCO: 0 boxes and 3 points in 2 images\n" in prepare_script(
        frames, "--name", "P", "--images", ".", "--masks_from", tmp_path / "points.json")


def test_annotations_for_the_folders_of_both_lists(tmp_path, frames, prepare_script):
    source = tmp_path / "set"
    for place, image in (("train", "a"), ("valid", "b"), ("valid", "night/c")):
        path = source / place / "images" / f"{image[-1]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (frames / f"{image}.png").rename(path)
    file = source / "all.json"
    file.write_text(coco({"a": BOXES["a"], "valid/images/b": [], "c": BOXES["night/c"]}))
    for name, place in ("A", file.name), ("B", file):
        output = prepare_script(source, "--name", name, "--masks_from", place)
        assert "train list: train/images, 1 names\ntest list: valid/images, 2 names\n" in output
        assert "masks made from COCO: 3 boxes and 0 points in 2 images\n" in output
    (source / "test" / "images").mkdir(parents=True)
    (source / "valid" / "images" / "b.png").rename(source / "test" / "images" / "a.png")
    file.write_text(coco({"a": []}))
    with pytest.raises(UserError, match=f"^{file}: a may be of train/images/ or of test/images/; "
                       "sort the annotations into train/all.json and test/all.json, and give"):
        prepare_script(source, "--name", "C", "--masks_from", file)
    for place in ("train", "test"):
        (source / place / file.name).write_text(coco({"a": BOXES["a"] * (place == "train")}))
    output = prepare_script(source, "--name", "C", "--masks_from", file.name)
    assert "of no list, left out: valid/images/\n" in output and "boxes and 0 points in 1" in output
    with pytest.raises(UserError, match="^--masks_from x: is for one SOURCE; prepare each source"):
        prepare_script(source, frames, "--name", "D", "--masks_from", "x")


@pytest.mark.parametrize("file, content, message", [
    ("x.json", "{", "file is not understood; it needs COCO's images and annotations"),
    ("x.json", '{"images": []}', "file is not understood; it needs COCO's images and annotations"),
    ("x.json", coco({"a": [(1, 2, 0, 3)]}), "annotation 1 is not understood; it needs image_id"),
    ("x.json", coco({"a": [(1, 2, 10**400, 3)]}), "annotation 1 is not understood; it needs"),
    ("x.json", coco(image_id=99), "annotation 1 is not understood; it needs image_id of an image"),
    ("x.json", coco({"other": []}), "there is no image C:\\x\\other.png; add it, or remove its"),
    ("y/a.txt", "0 0.5 0.5 0.1\n", "line 1 is not understood; it needs class, x and y"),
    ("x.json", coco({"a": []}).replace("}]", '}, {"id": 7, "file_name": "b.png"}]'),
     "image 2 is not understood; it needs an id of its own and file_name"),
    ("y/a.txt", "0 0.5 0.5 0.1 0.1 0.9 1\n", "line 1 is not understood; it needs class, x and y"),
    ("y/a.txt", "0 0.5 0.5 0.1 0\n", "line 1 is not understood; it needs class, x and y"),
    ("y/other.txt", "0 0.5 0.5 0.1 0.1\n", "there is no image other; add it, or remove its"),
    ("y/a.xml", "<annotation>", "file is not understood; it needs VOC's XML in UTF-8,"),
    ("y/a.xml", "<annotations></annotations>", "file is not understood; it needs VOC's XML"),
    ("y/a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
     "file is not understood; it needs VOC's XML in UTF-8, without DOCTYPE"),
    ("y/a.xml", voc([(5, 5, 0, 3)]), "object 1 is not understood; it needs bndbox with xmin"),
])
def test_annotations_that_are_refused(tmp_path, frames, prepare_script, file, content, message):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    place = path if path.suffix == ".json" else path.parent
    assert complaint(prepare_script, frames, "--name", "A", "--images", ".", "--masks_from",
                     place).startswith(f"{path}: {message}")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("boxes, message", [
    (coco({"a": [(44, 2, 6, 3)]}), "a box from (44, 2) to (50, 5) leaves its image, the image is "
     "48x40 (width x height); correct the box"),
    (coco({"a": []}).replace("48", "24"), "was drawn on 24x40, but the image is 48x40 (width x "
     "height); export the boxes for this image"),
    (coco({"a": [(0, 0, 48, 40)]}), "more than half of the image would be target; draw the boxes "
     "around the targets alone"),
], ids="outside size half".split())
def test_images_whose_boxes_cannot_be_are_left_out(
        tmp_path, frames, prepare_script, boxes, message):
    Image.new("L", SHAPE[::-1], 90).save(frames / "a.png")
    path = tmp_path / "x.json"
    path.write_text(boxes)
    output = prepare_script(frames, "--name", "A", "--images", ".", "--masks_from", path)
    assert f"pairs left out: 1\n  {path}: {message}\n" in output
    assert "without target: 2: " in output and masks_of(tmp_path, "A").keys() == {"b", "night/c"}


def test_flags_and_folders_that_are_refused(tmp_path, frames, prepare_script):
    labels = tmp_path / "labels"
    labels.mkdir()
    flags = ["--name", "A", "--images", ".", "--masks_from", labels]
    with pytest.raises(UserError, match=f"^{labels}: no annotations in this folder; keep COCO"):
        prepare_script(frames, *flags)
    write_all(labels, ".txt", yolo)
    write_all(labels, ".xml", voc)
    with pytest.raises(UserError, match=f"^{labels}: both .txt and .xml in this folder; keep COCO"):
        prepare_script(frames, *flags)
    with pytest.raises(UserError, match=f"^{labels}/a.xml: one file must be COCO .json; export CO"):
        prepare_script(frames, *flags[:-1], labels / "a.xml")
    (frames / "a.png").rename(frames / "night" / "b.png")
    (frames / "b.png").rename(frames / "night" / "a.png")
    (frames / "day").mkdir()
    Image.new("L", SHAPE[::-1]).save(frames / "day" / "a.png")
    (tmp_path / "x.json").write_text(coco({"a": []}).replace(r"C:\\x\\", ""))
    with pytest.raises(UserError, match="a.png may be day/a, night/a; write the folder before"):
        prepare_script(frames, *flags[:-1], tmp_path / "x.json")
    with pytest.raises(UserError, match="makes the masks; leave out --masks, --mask_suffix"):
        prepare_script(frames, *flags, "--masks", "m")
    with pytest.raises(UserError, match="^--masks_from none: no such file or folder in .*frames;"):
        prepare_script(frames, *flags[:-1], "none")
    with pytest.raises(UserError, match="^--images images: no such folder in .*frames; give its"):
        prepare_script(frames, "--name", "A", "--masks_from", labels)

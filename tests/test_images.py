"""Reading, resizing and padding: every mode of picture, every kind of bad one."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts import ROOT

from utils.data.images import (
    list_images,
    pages,
    read_frame,
    read_gray,
    read_levels,
    read_mask,
    read_size,
    resize_image,
    resize_mask,
    to_float,
)
from utils.errors import UserError

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
BINARY = np.array([[0, 0, 1], [1, 0, 0]], np.uint8)


def save(path, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def palette_image(indices, colours):
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return image


@pytest.mark.parametrize(
    "name, mode",
    [(f"a.{kind}", mode) for kind in ("png", "tif") for mode in ("L", "LA", "RGB", "RGBA", "P")]
    + [("a.bmp", mode) for mode in ("L", "RGB", "RGBA", "P")],
)
def test_gray_levels_survive_every_mode(tmp_path, name, mode):
    image = read_gray(save(tmp_path / name, GRAY, mode))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, GRAY)


def test_colours_become_gray_by_itu_r_601(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 90)]
    expected = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in colours]
    assert expected == [76, 150, 29, 131]
    rgb = save(tmp_path / "rgb.png", np.array([colours], np.uint8))
    palette = palette_image(np.arange(4, dtype=np.uint8)[None], colours)
    np.testing.assert_array_equal(read_gray(rgb), [expected])
    np.testing.assert_array_equal(read_gray(save(tmp_path / "p.png", palette)), [expected])


def test_transparency_is_ignored(tmp_path):
    rgba = np.dstack([GRAY] * 3 + [np.zeros_like(GRAY)])
    np.testing.assert_array_equal(read_gray(save(tmp_path / "clear.png", rgba)), GRAY)
    palette = palette_image(np.array([[0, 1]], np.uint8), [(7, 7, 7), (9, 9, 9)])
    path = save(tmp_path / "palette.png", palette, transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_gray(path), [[7, 9]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: "rotate by 90 degrees"
    for image in (GRAY, GRAY.astype(np.uint16) * 257):
        for name, options in (("a.png", {}), ("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})):
            path = save(tmp_path / name, image, exif=exif, **options)
            assert read_size(path) == image.shape
            np.testing.assert_array_equal(read_gray(path), image)
        others = [Image.fromarray(image[::-1].copy())]
        path = save(tmp_path / "c.tif", image, exif=exif, save_all=True, append_images=others)
        first, second = pages([path])
        for page, expected in ((first, image), (first, image), (second, image[::-1])):
            assert read_size(page) == image.shape
            np.testing.assert_array_equal(read_frame(page), expected)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.tif", BINARY, exif=exif)), BINARY)


def huge(path, width, height):
    """A file whose header alone claims so many pixels."""
    data = bytearray(save(path, GRAY).read_bytes())
    data[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(data)
    return path


def test_what_is_too_large_is_to_be_cut(tmp_path):
    path = huge(tmp_path / "a.bmp", 20_000, 9_000)
    assert read_size(path) is None
    with pytest.raises(UserError) as error:
        read_gray(path)
    assert str(error.value) == f"{path}: more than 179 megapixels; cut it into pieces"


def test_nothing_is_said_of_what_is_large(tmp_path):
    path = huge(tmp_path / "a.bmp", 10_000, 9_000)
    code = ("import sys; from utils import cli; from utils.data.images import read_size\n"
            "cli.run(lambda: print(read_size(sys.argv[1])))")
    result = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True,
                            text=True)
    assert (result.stdout, result.stderr) == ("(9000, 10000)\n", "")


def test_one_bit_is_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(BINARY * np.uint8(255)).convert("1"))
    np.testing.assert_array_equal(read_gray(path), BINARY * 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_kept(tmp_path, name):
    deep = np.array([[0, 255, 256, 65535], [1, 2, 40000, 300]], np.uint16)
    image = read_gray(save(tmp_path / name, deep))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, deep)


def test_tiff_of_integers_or_floats_in_range(tmp_path):
    wide = np.array([[0, 70, 65535]], np.int32)
    image = read_gray(save(tmp_path / "wide.tif", wide))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, wide)
    image = read_gray(save(tmp_path / "float.tif", np.array([[0, 0.25, 1]], np.float32)))
    np.testing.assert_array_equal(image, [[0, 16384, 65535]])


def test_jpeg_is_read_close_to_what_was_saved(tmp_path):
    smooth = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    image = read_gray(save(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(image.astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    "values, says",
    [
        (np.array([[-1, 5]], np.int32), "32-bit integers from -1 to 5"),
        (np.array([[0, 65536]], np.int32), "32-bit integers from 0 to 65536"),
        (np.array([[0, 1.5]], np.float32), "floating point from 0 to 1.5"),
        (np.array([[0, np.nan]], np.float32), "floating point from nan to nan"),
    ],
)
def test_other_ranges_are_refused(tmp_path, values, says):
    path = save(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=says) as error:
        read_gray(path)
    assert str(path) in str(error.value) and "8 or 16 bits" in str(error.value)


@pytest.mark.parametrize("read", [read_gray, read_mask])
def test_unreadable_files(tmp_path, read):
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), "u1"))
    bad = {
        "missing.png": (None, "no such file"),
        "empty.png": (b"", "cannot be read as an image .unknown format"),
        "text.png": (b"<html>404</html>", "cannot be read as an image .unknown format"),
        "cut.png": (whole.read_bytes()[:-2000], "cannot be read as an image"),
        "pixel.png": (whole.read_bytes()[:2000] + b"\x00" + whole.read_bytes()[2001:],
                      "cannot be read as an image"),
        "flipped.png": (whole.read_bytes().replace(b"IDAT", b"iDaT"), "cannot be read as an image"),
    }
    for name, (content, says) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says) as error:
            read(tmp_path / name)
        text = str(error.value)
        assert text.startswith(f"{tmp_path / name}: ") and "\n" not in text
        assert text.count(str(tmp_path)) == 1


@pytest.mark.parametrize("read", [read_gray, read_mask])
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch, read):
    program = tmp_path / "gs"  # Pillow calls it for PostScript, whatever the file's name
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="a.png: cannot be read as an image .unknown format"):
        read(path)
    assert not (tmp_path / "started").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    with pytest.raises(UserError, match="a.png: a folder, pipe or device, not a file"):
        read_gray(tmp_path / "a.png")
    with pytest.raises(UserError, match="b.png: cannot be read"):
        read_gray(tmp_path / "b.png")


def test_colour_spaces_of_print(tmp_path):
    colours = np.array([[[200, 60, 20], [20, 60, 200]]], np.uint8)
    cmyk = save(tmp_path / "cmyk.tif", colours, "CMYK")
    np.testing.assert_allclose(read_gray(cmyk), [[97, 64]], atol=1)
    lab = Image.frombytes("LAB", (2, 1), colours.tobytes())
    with pytest.raises(UserError, match="colours in Lab"):
        read_gray(save(tmp_path / "lab.tif", lab))


def test_a_stack_of_frames_is_refused(tmp_path):
    frames = [Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="stack of 2 frames"):
        read_gray(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "mask",
    [
        BINARY,
        BINARY * np.uint8(255),
        BINARY * np.uint16(65535),
        BINARY.astype(np.int32) * 255,
        np.dstack([BINARY * np.uint8(255)] * 3),
        np.dstack([BINARY] * 3 + [BINARY * 0 + np.uint8(255)]),
        Image.fromarray(BINARY * np.uint8(255)).convert("1"),
        palette_image(BINARY, [(0, 0, 0), (255, 255, 255)]),
        palette_image(BINARY, [(0, 0, 0), (128, 0, 0)]),
        palette_image(1 - BINARY, [(255, 255, 255), (0, 0, 0)]),
    ],
    ids="0/1 0/255 0/65535 int32 rgb rgba 1-bit palette annotation inverse".split(),
)
def test_binary_masks_of_every_kind(tmp_path, mask):
    read = read_mask(save(tmp_path / "a.tif", mask))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, BINARY)


@pytest.mark.parametrize("value, expected", [(0, 0), (1, 1), (255, 1)])
def test_masks_of_one_value(tmp_path, value, expected):
    mask = read_mask(save(tmp_path / "a.png", np.full((4, 5), value, np.uint8)))
    np.testing.assert_array_equal(mask, np.full((4, 5), expected))


@pytest.mark.parametrize(
    "mask, says",
    [
        (np.array([[0, 1, 255]], np.uint8), r"values 0, 1, 255\)"),  # most of it is not black
        (np.array([[0, 127]], np.uint8), r"values 0, 127\)"),  # nothing above half
        (np.array([[0, 0, 1, 2, 3, 0, 0]], np.uint8), r"values 0, 1, 2, 3\)"),  # numbers of classes
        (np.repeat(np.array([[0, 90, 255]], np.uint8), (40, 9, 1), axis=1), "values 0, 90, 255"),
        (np.array([[0, 0, 0, 200, 40000]], np.uint16) // 2, r"values 0, 100, 20000\)"),
        (np.array([[7, 255]], np.uint8), r"values 7, 255\)"),
        (np.arange(200, dtype=np.uint8)[None], r"values 0, 1, 2, 3, and 196 more up to 199\)"),
        (np.array([[[0, 0, 0], [255, 0, 0]]], np.uint8), "picture in colour"),
    ],
)
def test_masks_that_are_not_binary(tmp_path, mask, says):
    path = save(tmp_path / "a.png", mask)
    with pytest.raises(UserError, match=says) as error:
        read_mask(path)
    assert str(path) in str(error.value)
    assert "0 for background and 255 for target" in str(error.value)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_grey_edges_are_target_above_half_of_full_scale(tmp_path, mode):
    edges = np.zeros((6, 7), np.uint8)
    edges[2:5, 2:5] = [[3, 127, 128], [254, 255, 130], [40, 120, 126]]
    deep = edges.astype(np.uint16) * 257
    path = save(tmp_path / "a.png", deep) if mode == "I;16" else save(
        tmp_path / "a.png", edges, mode)
    np.testing.assert_array_equal(read_levels(path), edges)
    np.testing.assert_array_equal(read_mask(path), edges >= 128)
    assert read_mask(path).sum() == 4


def test_as_many_faint_pixels_as_a_target_has_neighbours(tmp_path):
    ring = np.zeros((5, 9), np.uint8)
    ring[1:4, 1:4] = 60
    ring[2, 2] = 200
    assert read_mask(save(tmp_path / "a.png", ring)).sum() == 1
    ring[2, 4] = 60
    with pytest.raises(UserError, match="not a binary mask .values 0, 60, 200.; save it with 0"):
        read_mask(save(tmp_path / "a.png", ring))


def test_photographs_are_no_masks(tmp_path, nudt):
    for name in ("000001", "000700", "001109"):
        with pytest.raises(UserError, match="not a binary mask"):
            read_mask(nudt / "images" / f"{name}.png")


def test_a_jpeg_mask_is_told_from_its_cause(tmp_path):
    blob = np.zeros((32, 32), np.uint8)
    blob[10:13, 11:15] = 255
    with pytest.raises(UserError, match="JPEG cannot keep a mask"):
        read_mask(save(tmp_path / "a.jpg", blob))


def test_to_float_divides_by_the_full_scale():
    shallow = to_float(np.array([[0, 51, 255]], np.uint8))
    deep = to_float(np.array([[0, 13107, 65535]], np.uint16))
    assert shallow.dtype == deep.dtype == np.float32
    np.testing.assert_array_equal(shallow, np.array([[0, 0.2, 1]], np.float32))
    np.testing.assert_array_equal(deep, np.array([[0, 0.2, 1]], np.float32))
    with pytest.raises(TypeError, match="float32"):
        to_float(shallow)


def test_resize_image_is_bilinear_at_both_depths():
    row = np.array([[0, 200]], np.uint8)
    # Pixel centres of the doubled row lie at -1/4, 1/4, 3/4 and 5/4 of the old ones.
    np.testing.assert_array_equal(resize_image(row, (1, 4)), [[0, 50, 150, 200]])
    deep = resize_image(row.astype(np.uint16) * 257, (1, 4))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep, np.array([[0, 50, 150, 200]]) * 257)
    assert resize_image(GRAY, (5, 9)).shape == (5, 9)
    assert resize_image(GRAY, GRAY.shape) is GRAY


def test_resize_mask_is_nearest():
    np.testing.assert_array_equal(resize_mask(BINARY, (4, 6)), np.kron(BINARY, np.ones((2, 2))))
    assert resize_mask(BINARY, BINARY.shape) is BINARY


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.tiff", "c.jpg", "._c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.tiff", "b.PNG", "c.jpg"]
    assert list_images(tmp_path / "b.PNG") == [tmp_path / "b.PNG"]
    with pytest.raises(UserError, match="no image in this folder"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(UserError, match="no such image or folder"):
        list_images(tmp_path / "nowhere")


def test_gray_of_the_real_coloured_file(nudt):
    with Image.open(nudt / "images" / "001109.png") as image:
        rgb = np.asarray(image).astype(float)
    assert (rgb[..., 0] != rgb[..., 1]).any()  # one of the seven that are not quite grey
    weighted = np.rint(rgb @ [0.299, 0.587, 0.114])
    np.testing.assert_array_equal(read_gray(nudt / "images" / "001109.png"), weighted)

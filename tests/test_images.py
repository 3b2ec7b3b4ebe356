"""Reading, resizing and padding: every mode of picture, every kind of bad one."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from scripts import ROOT, complaint

from utils.data.decoding import pages, read_size
from utils.data.images import (
    binary,
    list_images,
    read_gray,
    read_levels,
    resize_image,
    resize_mask,
)
from utils.errors import UserError

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
BINARY = np.array([[0, 0, 1], [1, 0, 0]], np.uint8)
SHAPE = BINARY * np.uint8(255)


def save(path, array, **options):
    """Writes an array or a Pillow image; WebP without loss."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    options.update({"lossless": True, "exact": True} if path.suffix == ".webp" else {})
    image.save(path, **options)
    return path


def palette_image(indices, colours):
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return image


def deep_png(path, channels, interlaced=False):
    """A PNG of several channels of 16 bits, which Pillow cannot write."""
    height, width = channels.shape[:2]
    kind = {2: 4, 3: 2, 4: 6}[channels.shape[2]]
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
    parts = [channels[y::dy, x::dx] for y, x, dy, dx in starts]
    rows = [b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks))
    return path


def deep_tiff(path, channels, photometric="rgb", planarconfig="contig", **options):
    planes = np.moveaxis(channels, 2, 0) if planarconfig == "separate" else channels
    tifffile.imwrite(path, planes, photometric=photometric, planarconfig=planarconfig, **options)
    return path


DEEP = np.array([[0, 255, 256, 65535], [1, 2, 40000, 300], [7, 8, 9, 257]], np.uint16)


@pytest.mark.parametrize("name, picture, expected", [
    *[(f"a.{kind}", Image.fromarray(GRAY).convert(mode), GRAY) for kind in ("png", "tif", "bmp")
      for mode in ("L", "LA", "RGB", "RGBA", "P") if (kind, mode) != ("bmp", "LA")],
    *[(name, DEEP, DEEP) for name in ("a.png", "a.tif")],
    *[(name, DEEP.astype(np.int32), DEEP) for name in ("a.tif", "a.pgm")],
    ("a.tif", np.array([[0, 0.25, 1]], np.float32), np.array([[0, 16384, 65535]], np.uint16)),
])
def test_gray_levels_survive_every_mode(tmp_path, name, picture, expected):
    image = read_gray(save(tmp_path / name, picture))
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("write, channels, options", [
    (deep_png, "ggg", {}), (deep_png, "ggg", {"interlaced": True}), (deep_png, "ggga", {}),
    (deep_png, "ga", {}), (deep_tiff, "ggg", {}), (deep_tiff, "ggg", {"byteorder": ">"}),
    (deep_tiff, "ggg", {"compression": "zlib", "predictor": True}),
    (deep_tiff, "ggga", {"extrasamples": "unassalpha"}),
    (deep_tiff, "ggga", {"extrasamples": "assocalpha"}),
    (deep_tiff, "ggg", {"planarconfig": "separate"}),
    (deep_tiff, "ga", {"photometric": "minisblack", "extrasamples": "unassalpha"}),
    (deep_tiff, "gg", {"photometric": "minisblack"}),
])
def test_sixteen_bits_in_several_channels(tmp_path, write, channels, options):
    grey = {"g": DEEP, "a": DEEP[::-1]}
    write(tmp_path / "a", np.dstack([grey[channel] for channel in channels]), **options)
    image = read_gray(tmp_path / "a")
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, DEEP)


def test_colours_become_gray_by_itu_r_601_and_transparency_is_ignored(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 90)]
    expected = [[76, 150, 29, 131]]  # 0.299 R + 0.587 G + 0.114 B
    rgb = save(tmp_path / "rgb.png", np.array([colours], np.uint8))
    np.testing.assert_array_equal(read_gray(rgb), expected)
    palette = palette_image(np.arange(4, dtype=np.uint8)[None], colours)
    path = save(tmp_path / "p.png", palette, transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_gray(path), expected)
    rgba = np.dstack([GRAY] * 3 + [np.zeros_like(GRAY)])
    np.testing.assert_array_equal(read_gray(save(tmp_path / "clear.png", rgba)), GRAY)


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
            np.testing.assert_array_equal(read_gray(page), expected)
    np.testing.assert_array_equal(read_levels(save(tmp_path / "d.tif", BINARY, exif=exif)), SHAPE)


def test_what_is_too_large_is_to_be_cut_and_nothing_said_of_less(tmp_path):
    path = save(tmp_path / "a.bmp", GRAY)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 20_000, 9_000)  # the header alone claims so many pixels
    path.write_bytes(data)
    assert read_size(path) is None
    assert complaint(read_gray, path) == f"{path}: more than 179 megapixels; cut it into pieces"
    data[18:26] = struct.pack("<ii", 10_000, 9_000)
    path.write_bytes(data)
    code = ("import sys; from utils import cli; from utils.data.decoding import read_size\n"
            "cli.run(lambda: print(read_size(sys.argv[1])))")
    result = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True,
                            text=True)
    assert (result.stdout, result.stderr) == ("(9000, 10000)\n", "")


@pytest.mark.parametrize(
    "values, says",
    [
        (np.array([[-1, 5]], np.int8), "8-bit integers from -1 to 5"),
        (np.array([[-3000, 5]], np.int16), "integers from -3000 to 5"),
        (np.array([[-1, 5]], np.int32), "32-bit integers from -1 to 5"),
        (np.array([[0, 65536]], np.int32), "32-bit integers from 0 to 65536"),
        (np.array([[0, 2**32 - 1]], np.uint32), "32-bit integers from 0 to 4.29497e.09"),
        (np.array([[-1, 2**40]], np.int64), "64-bit integers from -1 to"),
        (np.array([[0, 1.5]], np.float16), "16-bit floating point from 0 to 1.5"),
        (np.array([[0, 1.5]], np.float32), "32-bit floating point from 0 to 1.5"),
        (np.array([[-40, 22.25]], np.float64), "64-bit floating point from -40 to 22.25"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.dtype.name,
)
@pytest.mark.parametrize("stacked", [False, True])
def test_other_ranges_only_to_be_stretched(tmp_path, values, says, stacked):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([values] * 2) if stacked else values)
    frame = pages([path])[-1]
    np.testing.assert_array_equal(read_gray(frame, any_range=True), values)
    assert read_size(frame) == values.shape
    message = complaint(read_gray, frame)
    assert message.startswith(f"{frame}: ") and re.search(says, message)
    assert message.endswith(
        "save it with 8 or 16 bits per pixel, or give it to test.py --input with --stretch")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("value, name", [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_pixels_that_are_no_numbers(tmp_path, kind, value, name):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, value, 300]], kind))
    for read in (read_gray, lambda path: read_gray(path, any_range=True), read_levels):
        with pytest.raises(UserError, match=f"a.tif: {name} in 1 of 3 pixels, as of dead"):
            read(tmp_path / "a.tif")


def test_sixteen_bits_in_colour_turned_or_in_a_stack(tmp_path):
    colours = np.dstack([DEEP, DEEP // 3, DEEP[::-1]])
    expected = np.rint(colours @ [0.299, 0.587, 0.114])
    image = read_gray(deep_png(tmp_path / "a.png", colours))
    assert image.dtype == np.uint16 and np.abs(image - expected).max() <= 1
    path = deep_tiff(tmp_path / "a.tif", colours, extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(read_gray(path), image)
    deep_tiff(path, np.stack([colours, colours // 2, colours]))
    for page, wanted in zip(pages([path]), (expected, expected / 2, expected)):
        assert np.abs(read_gray(page) - wanted).max() <= 1
    (tmp_path / "a.ppm").write_bytes(b"P6\n4 3\n65535\n" + colours.astype(">u2").tobytes())
    with pytest.raises(UserError, match="a.ppm: a PPM of 16 bits per channel; save it as PGM or"):
        read_gray(tmp_path / "a.ppm")
    deep_tiff(path, colours[..., :2], photometric="minisblack")
    with pytest.raises(UserError, match="a.tif: 2 channels that differ; save one, in grey"):
        read_gray(path)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.int32, np.float32, np.float64])
def test_white_is_zero_has_the_polarity_of_its_scene(tmp_path, kind):
    values = np.array([[0, 100, 200]], kind)
    for name, stack in (("one.tif", values), ("two.tif", np.stack([values] * 2))):
        tifffile.imwrite(tmp_path / name, stack, photometric="miniswhite")
        image = read_gray(pages([tmp_path / name])[-1], any_range=True).astype(float)
        np.testing.assert_array_equal(np.diff(image), [[-100, -100]])
        assert image[0, 0] == {"uint8": 255, "uint16": 65535}.get(kind.__name__, image[0, 0])


def test_formats_of_the_official_list_and_of_the_web(tmp_path):
    for name in ("a.pgm", "a.ppm", "a.gif", "a.webp"):
        mode = "RGB" if name in ("a.ppm", "a.webp") else "L"
        save(tmp_path / name, Image.fromarray(GRAY).convert(mode))
    save(tmp_path / "a.pbm", Image.fromarray(BINARY * 255).convert("1"))
    found = list_images(tmp_path)
    assert [path.name for path in found] == ["a.gif", "a.pbm", "a.pgm", "a.ppm", "a.webp"]
    for path in found:
        expected = BINARY * 255 if path.suffix == ".pbm" else GRAY
        np.testing.assert_array_equal(read_gray(path), expected)
    (tmp_path / "mask.pgm").write_text("P2\n3 2\n1\n0 0 1\n1 0 0\n")
    np.testing.assert_array_equal(read_levels(tmp_path / "mask.pgm"), SHAPE)
    smooth = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    image = read_gray(save(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(image.astype(int) - smooth).max() <= 4
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames = [Image.fromarray(GRAY), Image.fromarray(GRAY[::-1].copy())]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match=f"{name}: a stack of 2 frames; save each frame as a"):
            read_gray(tmp_path / name)


@pytest.mark.parametrize("read", [read_gray, read_levels])
def test_unreadable_files(tmp_path, read):
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), "u1"))
    empty = bytearray(save(tmp_path / "whole.tif", GRAY).read_bytes())
    empty[empty.index(struct.pack("<HH", 256, 4)) + 8] = 0  # the width
    bad = {
        "missing.png": (None, "no such file"),
        "pixels.tif": (empty, "a picture without pixels"),
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
        text = complaint(read, tmp_path / name)
        assert text.startswith(f"{tmp_path / name}: ") and re.search(says, text)
        assert text.count(str(tmp_path)) == 1


@pytest.mark.parametrize("read", [read_gray, read_levels])
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
    cmyk = Image.fromarray(colours).convert("CMYK")
    np.testing.assert_allclose(read_gray(save(tmp_path / "a.tif", cmyk)), [[97, 64]], atol=1)
    lab = Image.frombytes("LAB", (2, 1), colours.tobytes())
    with pytest.raises(UserError, match="colours in Lab"):
        read_gray(save(tmp_path / "lab.tif", lab))


RED, OLIVE, VOID = (128, 0, 0), (128, 128, 0), (0, 0, 0)


@pytest.mark.parametrize("name, mask", [
    ("a.tif", BINARY), ("a.tif", SHAPE), ("a.tif", BINARY * np.uint16(65535)),
    ("a.tif", BINARY.astype(np.int32) * 255), ("a.tif", BINARY * np.int32(2**31 - 1)),
    ("a.tif", BINARY.astype(np.float32)), ("a.tif", BINARY * np.float32(255)),
    ("a.tif", BINARY * np.float32(0.25)), ("a.tif", np.dstack([SHAPE] * 3)),
    ("a.tif", np.dstack([BINARY] * 3 + [BINARY * 0 + np.uint8(255)])),
    ("a.tif", Image.fromarray(SHAPE).convert("1")),
    ("a.tif", palette_image(1 - BINARY, [(255, 255, 255), VOID])),
    ("a.png", BINARY * np.uint8(38)), ("a.png", BINARY * np.uint16(255)),
    ("a.png", BINARY[..., None] * np.array(RED, np.uint8)),
    ("a.bmp", BINARY[..., None] * np.array(OLIVE, np.uint8)),
    ("a.png", np.dstack([BINARY[..., None] * np.array(RED, np.uint8), SHAPE])),
    ("a.png", palette_image(BINARY * np.uint8(15), [VOID] * 15 + [RED])),
    ("a.png", palette_image(BINARY * np.uint8(9) + np.uint8(3), [RED] * 3 + [VOID] * 9 + [OLIVE])),
    ("a.gif", palette_image(BINARY * np.uint8(2), [VOID, OLIVE, RED])),
    ("a.png", palette_image(BINARY, [VOID, VOID])),
], ids="0/1 0/255 0/65535 int32-255 int32 float-1 float-255 quarter rgb rgba 1-bit inverse 38 "
       "16-bit-255 red olive red-on-clear index-15 index-12 gif black-palette".split())
def test_one_colour_on_black_is_a_mask_in_every_mode(tmp_path, name, mask):
    levels = read_levels(save(tmp_path / name, mask))
    assert levels.dtype == binary(levels).dtype == np.uint8
    np.testing.assert_array_equal(levels, SHAPE)
    np.testing.assert_array_equal(binary(levels), BINARY)


def test_masks_that_pillow_does_not_write(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", BINARY * 255.0)
    deep_png(tmp_path / "a.png", np.dstack([BINARY, BINARY * 65535]).astype(np.uint16))
    deep_tiff(tmp_path / "b.tif", BINARY[..., None] * np.array([0, 7, 0], np.uint16))
    for name in ("a.tif", "a.png", "b.tif"):  # 64 bits; 1 of 65535, with alpha; one of 3 channels
        np.testing.assert_array_equal(read_levels(tmp_path / name), SHAPE)
    assert not read_levels(save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))).any()


INVERTED = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)
GROUND = 255 - INVERTED * 255
BLOB = np.zeros((32, 32), np.uint8)
BLOB[10:13, 11:15] = 255
CLEAR_RED = palette_image(BINARY, [RED, RED])
CLEAR_RED.info["transparency"] = b"\x00\xff"
ALPHA = "but one colour, with a shape in its alpha channel; save that in grey"


@pytest.mark.parametrize("name, mask, says", [
    ("a.png", INVERTED * 255, "values 0, 255; black on 12 % of it"),
    ("a.png", INVERTED * np.uint16(65535), "values 0, 65535; black on 12 % of it"),
    ("a.tif", INVERTED * np.float32(255), "values 0, 255; black on 12 % of it"),
    ("a.png", INVERTED, "values 0, 1; black on 12 % of it"),
    ("a.png", np.full((4, 5), 255, np.uint8), "values 255; black on 0 % of it"),
    ("a.png", Image.fromarray(INVERTED * 255).convert("1"), "values 0, 255; black on 12 % of it"),
    ("a.png", palette_image(1 - INVERTED, [RED, VOID]), "in colour .2 colours; black on 12 % of"),
    ("a.png", palette_image(1 - INVERTED, [RED, OLIVE]), "in colour .2 colours; black on 0 % of"),
    ("a.png", np.dstack([INVERTED * 255] * 3 + [GROUND]), "black on 12 % of it"),
    ("a.png", np.array([[0, 1, 255]], np.uint8), r"values 0, 1, 255\)"),  # most is not black
    ("a.png", np.array([[0, 0, 0, 100, 127]], np.uint8), r"values 0, 100, 127\)"),  # none above
    ("a.png", np.array([[0, 0, 1, 2, 3, 0, 0]], np.uint8), r"values 0, 1, 2, 3\)"),  # classes
    ("a.png", np.repeat(np.array([[0, 90, 255]], np.uint8), (40, 9, 1), axis=1), "0, 90, 255"),
    ("a.png", np.array([[0, 0, 0, 100, 20000]], np.uint16), r"values 0, 100, 20000\)"),
    ("a.png", np.arange(200, dtype=np.uint8)[None], r"0, 1, 2, 3, and 196 more up to 199\)"),
    ("a.png", np.array([[VOID, RED, OLIVE]], np.uint8), "picture in colour .3 "),
    ("a.jpg", BLOB, "JPEG cannot keep a mask"),
    ("a.png", np.dstack([SHAPE | 255] * 3 + [SHAPE]), ALPHA),
    ("a.png", np.dstack([SHAPE * 0] * 3 + [SHAPE // 2 + 100]), ALPHA),
    ("a.png", np.dstack([SHAPE | 255] * 3 + [255 - SHAPE]), ALPHA),
    ("a.tif", Image.merge("LA", [Image.fromarray(SHAPE * 0), Image.fromarray(SHAPE)]), ALPHA),
    ("a.webp", np.dstack([SHAPE * 0] * 3 + [SHAPE]), ALPHA),
    ("a.png", CLEAR_RED, ALPHA),
    ("a.png", np.dstack([GROUND] * 3 + [GROUND[::-1]]), "alpha channel show different targets"),
], ids="8-bit 16-bit float 0/1 white 1-bit red-ground no-black both bright dim classes faint deep "
       "photograph colours jpeg alpha-on-white alpha-soft alpha-inverted alpha-tiff alpha-webp "
       "alpha-palette alpha-differs".split())
def test_what_is_no_mask_is_refused_by_name(tmp_path, name, mask, says):
    path = save(tmp_path / name, mask)
    message = complaint(read_levels, path)
    assert message.startswith(f"{path}: ") and "; save " in message and re.search(says, message)
    if "show different targets" not in says:
        assert message.startswith(f"{path}: not a binary mask")
        assert "0 for background and 255 for target" in message


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_grey_edges_are_target_above_half_of_full_scale(tmp_path, mode):
    edges = np.zeros((6, 7), np.uint8)
    edges[2:5, 2:5] = [[3, 127, 128], [254, 255, 130], [40, 120, 126]]
    deep = edges.astype(np.uint16) * 257
    image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(edges).convert(mode)
    levels = read_levels(save(tmp_path / "a.png", image))
    np.testing.assert_array_equal(levels, edges)
    np.testing.assert_array_equal(binary(levels), edges >= 128)


def test_as_many_faint_pixels_as_a_target_has_neighbours(tmp_path):
    ring = np.zeros((5, 9), np.uint8)
    ring[1:4, 1:4] = 60
    ring[2, 2] = 200
    assert binary(read_levels(save(tmp_path / "a.png", ring))).sum() == 1
    ring[2, 4] = 60
    with pytest.raises(UserError, match="not a binary mask .values 0, 60, 200.; save it with 0"):
        read_levels(save(tmp_path / "a.png", ring))


def test_images_are_resized_bilinearly_and_masks_to_the_nearest():
    row = np.array([[0, 200]], np.uint8)
    # Pixel centres of the doubled row lie at -1/4, 1/4, 3/4 and 5/4 of the old ones.
    np.testing.assert_array_equal(resize_image(row, (1, 4)), [[0, 50, 150, 200]])
    deep = resize_image(row.astype(np.uint16) * 257, (1, 4))
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep, np.array([[0, 50, 150, 200]]) * 257)
    np.testing.assert_array_equal(resize_mask(BINARY, (4, 6)), np.kron(BINARY, np.ones((2, 2))))
    assert resize_image(GRAY, GRAY.shape) is GRAY and resize_mask(GRAY, GRAY.shape) is GRAY


def test_list_images(tmp_path):
    for name in ("b.PNG", "a.tiff", "c.jpg", "._c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.tiff", "b.PNG", "c.jpg"]
    assert list_images(tmp_path / "b.PNG") == [tmp_path / "b.PNG"]
    for name in ("set/images/d.png", "set/masks/d.png", "masks/e.png",  # the last is no dataset's
                 "z/IRSTD1k_Img/f.png", "z/IRSTD1k_Label/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == [
        "a.tiff", "b.PNG", "c.jpg", "masks/e.png", "set/images/d.png", "z/IRSTD1k_Img/f.png"]


def test_links_among_folders_of_images(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "top" / "below").mkdir(parents=True)
    for place in ("real", "top/below"):
        (tmp_path / place / "a.png").touch()
    top = tmp_path / "top"
    for link, target in (("one", "real"), ("two", "real"), ("below/up", "top"),
                         ("itself", "top/itself")):
        (top / link).symlink_to(tmp_path / target)
    found = {path.relative_to(top).as_posix() for path in list_images(top)}
    assert found in ({"below/a.png", "one/a.png"}, {"below/a.png", "two/a.png"})

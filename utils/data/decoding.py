"""Decodes picture files at their full depth, by Pillow and, where Pillow cannot, by tifffile."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError

# In order of preference if one stem has several files.
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".gif", ".webp",
              ".jpg", ".jpeg")
KINDS = ", ".join(extension[1:] for extension in EXTENSIONS)

# Pillow's mode → the mode in which a picture is read; grey of more bits as it is, others as RGB.
_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA", "P": "RGBA",
          "PA": "RGBA"}

# The formats that Pillow may try, whatever the file's name: some others are programs (EPS).
_FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "GIF", "WEBP", "PPM")

# Tags of a TIFF.
_DESCRIPTION, _IMAGEJ = 0x10E, re.compile(r"ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)
_SUBFILE, _NO_FRAME = 0xFE, 5  # bits of a smaller copy and of a mask
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 0x100, 0x101, 0x102, 0x106, 0x112
_STRIPS = 0x111
_SAMPLES, _PLANES, _EXTRA, _SAMPLE_FORMAT = 0x115, 0x11C, 0x152, 0x153
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED, _ALPHA = 0, 1, 2, (1, 2)

_TURN = Image.Transpose  # orientation → the operation that undoes Pillow's rotation
_BACK = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM,
         5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270}
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it raises its errors as well


class Picture(NamedTuple):
    """A decoded picture, its pixels as they are stored.

    Attributes:
        values: H×W, or H×W×3 in colour; integers or floats of any range.
        alpha: H×W, or None.
        indices: palette indices, H×W, or None.
        format: the format's name in Pillow.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    indices: np.ndarray | None = None
    format: str = "TIFF"

    @classmethod
    def of_channels(cls, channels: np.ndarray) -> Picture:
        """A picture from H×W×C channels: grey or RGB, then alpha if C is even."""
        colours, alpha = channels, None
        if channels.shape[2] % 2 == 0:
            colours, alpha = channels[..., :-1], channels[..., -1]
        return cls(colours[..., 0] if colours.shape[2] == 1 else colours, alpha)


class _Stored(NamedTuple):
    """A picture in its file: its shape, the operation that undoes Pillow's rotation, and its page.

    Pillow rotates a TIFF by its orientation tag, and may remove the tag then.
    """

    height: int
    width: int
    back: Image.Transpose | None = None
    page: int = 0

    @classmethod
    def of(cls, image: Image.Image, page: int = 0) -> _Stored:
        if image.format != "TIFF":
            return cls(image.height, image.width)
        tags = image.tag_v2
        return cls(tags[_HEIGHT], tags[_WIDTH], _BACK.get(tags.get(_ORIENTATION)), page)

    def restore(self, image: Image.Image) -> Image.Image:
        return image if self.back is None else image.transpose(self.back)


def _header(path: Path) -> Image.Image:
    """Opens a picture without decoding it."""
    image = Image.open(path, formats=_FORMATS)
    image.filename = ""  # else Pillow memory-maps a rotated TIFF with its sides exchanged
    return image


def decode(path: Path | Page) -> Picture:
    """Decodes a file of one picture, or one page of a TIFF.

    Raises:
        UserError: the file is missing, cannot be decoded, or is a stack of several frames.
    """
    try:
        page = isinstance(path, Page)
        picture = path.stack.decode(path.index) if page else _decode_file(path)
        if not picture.values.size:
            raise UserError("a picture without pixels; copy or download it anew")
        return picture
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                        "cut it into pieces") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except MemoryError:
        raise UserError(f"{path}: needs more memory than there is; cut it into pieces") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)  # its text only repeats the path
        reason = "unknown format" if unknown else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.replace(str(path), path.name).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); copy or download it anew "
                        "if it is damaged, else save it as PNG") from error


# The functions below raise UserErrors without the file's name; `decode` adds it.


def _decode_file(path: Path) -> Picture:
    if path.exists() and not path.is_file():
        raise UserError("a folder, pipe or device, not a file; move it elsewhere")
    if _only_tifffile_reads(path):
        frames, picture = len(list(_stored_pages(path))), _by_tifffile(path, 0)
    else:
        with _header(path) as image:
            if image.format == "PNG":  # decoding alone would accept damaged pixels
                image.verify()
        with _header(path) as image:
            if image.format == "TIFF":
                frames = len(list(_stored_in(image)))
                image.seek(0)
            else:  # a camera's JPEG may carry a preview as its second frame
                frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
            picture = _by_pillow(image, path, 0, _Stored.of(image))
    if frames > 1:
        stacks = " (test.py --input takes TIFFs of several pages)" * (picture.format == "TIFF")
        raise UserError(f"a stack of {frames} frames; save each frame as a file of its own{stacks}")
    return picture


def _by_pillow(image: Image.Image, path: Path, page: int, stored: _Stored) -> Picture:
    """Decodes a file that Pillow has opened, at the page of this index."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    deep = tags.get(_SAMPLES, 1) > 1 and tags.get(_BITS, (1,))[0] > 8
    two_greys = tags.get(_SAMPLES) == 2 and tags.get(_EXTRA, (0,))[0] not in _ALPHA
    if two_greys or deep and tags.get(_PLANES) == 2:  # Pillow reads only the first of two greys
        return _by_tifffile(path, page)
    raw = image.tile[0][3] if image.tile else ""
    raw, *more = (raw,) if isinstance(raw, str) else raw
    if image.format == "PPM" and image.mode == "RGB" and more and more[0] > 255:
        raise UserError("a PPM of 16 bits per channel; save it as PGM or PNG, in grey")
    if deep or image.format == "PNG" and ";16" in raw and image.mode != "I;16":
        return _sixteen_bits(path, page, stored, image.mode, raw)._replace(format=image.format)
    image.load()
    picture = _eight_bits(stored.restore(image))._replace(format=image.format)
    values, kind = picture.values, tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if tags and values.dtype == np.uint8 and kind == _SIGNED:
        values = values.view(np.int8)
    if tags and values.dtype == np.int32 and kind == _UNSIGNED:
        values = values.view(np.uint32)
    # In these modes Pillow does not invert pixels whose zero is white.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode[0] in "IF":
        values = _inverted(values)
    return picture._replace(values=values)


def _eight_bits(image: Image.Image) -> Picture:
    """The channels of a decoded picture: several of 8 bits, or one of any depth."""
    if image.mode == "LAB":  # the one mode that Pillow reads but cannot convert
        raise UserError("colours in Lab; save it in grey or RGB")
    mode = image.mode if image.mode[0] in "IF" else _MODES.get(image.mode, "RGB")
    values = np.asarray(image if mode == image.mode else image.convert(mode))
    values = np.atleast_3d(values.astype(values.dtype.newbyteorder("=")))
    indices = np.asarray(image) if image.mode == "P" else None
    return Picture.of_channels(values)._replace(indices=indices)


def _sixteen_bits(path: Path, page: int, stored: _Stored, mode: str, raw: str) -> Picture:
    """Decodes a PNG or TIFF of several channels of 16 bits, whose lower 8 bits Pillow drops.

    Pillow unpacks one of the two bytes per value; the byte order in its raw mode says which. So the
    file is decoded twice, the second time in the other byte order.
    """
    if mode not in ("RGB", "RGBA", "LA"):
        raise UserError("colours that are neither grey nor RGB; save it in grey")

    def unpack(raw):
        with _header(path) as image:
            image.seek(page)
            image.tile = [_with_raw_mode(tile, raw) for tile in image.tile]
            return np.asarray(stored.restore(image)).astype(np.uint16)

    if raw == "LA;16B":  # four bytes per pixel: decoded once, as if they were colours
        channels = unpack("RGBA")
        return Picture.of_channels(channels[..., ::2] * np.uint16(256) + channels[..., 1::2])
    raw = raw.replace("RGBa", "RGBA")  # as stored, not divided by alpha
    upper, lower = unpack(raw), unpack(raw[:-1] + _OTHER_ORDER[raw[-1]])
    return Picture.of_channels(upper * np.uint16(256) + lower)


def _with_raw_mode(tile, raw):
    arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    # Pillow below 11.1 has plain tuples.
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _inverted(values):
    """The values of a picture whose zero is white, so that more is brighter."""
    return -values if values.dtype.kind == "f" else ~values


def _only_tifffile_reads(path):
    """True for a TIFF that Pillow cannot open: 64 bits, float16, two channels of 16 bits."""
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return False
    try:
        _header(path).close()
    except UnidentifiedImageError:
        return True
    return False


def _by_tifffile(path: Path, page: int) -> Picture:
    """Decodes a page of a TIFF; raises a UserError if it has no grey levels, or several."""
    import tifffile  # slow to import, and rarely needed

    with tifffile.TiffFile(path) as file:
        page = file.pages[page]
        if page.imagelength * page.imagewidth > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        values, axes, photometric = page.asarray(), page.axes, int(page.photometric)
        alpha = [int(extra) in _ALPHA for extra in page.extrasamples]
    if values.dtype.kind not in "buif":
        raise UserError(f"{values.dtype} pixels; save real numbers, one per pixel")
    if axes not in ("YX", "YXS", "SYX"):
        raise UserError(f"pixels in {len(axes)} dimensions ({axes}); save each plane as a file of "
                        "its own")
    values = values.astype(values.dtype.newbyteorder("="))
    values = np.atleast_3d(np.moveaxis(values, 0, -1) if axes == "SYX" else values)
    colours = values.shape[2] - len(alpha)
    if photometric not in (0, 1, 2) or colours not in (1, 3):
        raise UserError("colours that are neither grey nor RGB; save it in grey")
    transparency = values[..., colours + alpha.index(True)] if True in alpha else None
    if colours == 1 and False in alpha and (values != values[..., :1]).any():
        raise UserError(f"{values.shape[2]} channels that differ; save one, in grey")
    values = values[..., :3] if colours == 3 else values[..., 0]
    return Picture(_inverted(values) if photometric == _WHITE_IS_ZERO else values, transparency)


# Pages


class Page:
    """One page of a TIFF of several pages, as thermal cameras write; read when it is needed.

    Has the attributes of a `Path` that name results: `stem`, "stack_0003", `suffix`, `name` and
    `parent`.
    """

    def __init__(self, stack: _Stack, index: int):
        self.stack, self.index = stack, index
        self.suffix, self.parent = stack.path.suffix, stack.path.parent
        digits = max(4, len(str(stack.stored[-1].page + 1)))
        self.number = stack.stored[index].page + 1
        self.stem = f"{stack.path.stem}_{self.number:0{digits}d}"
        self.name = self.stem + self.suffix

    def __str__(self) -> str:
        return f"{self.stack.path} page {self.number}"


class _Stack:
    """A TIFF of several pages. The file stays open from the first page read to the last page.

    Opening it anew for every page would mean walking through all pages before, each time.
    """

    def __init__(self, path: Path, stored: list[_Stored]):
        self.path, self.stored = path, stored
        self._image: Image.Image | None = None
        self._lock = threading.Lock()  # threads read ahead, and the file has one position

    def decode(self, index: int) -> Picture:
        page = self.stored[index].page
        with self._lock:
            try:
                if not self.stored[index].height:  # the page that cannot be read
                    deque(_stored_pages(self.path), maxlen=0)  # raises the reason
                if not self._image and _only_tifffile_reads(self.path):
                    return _by_tifffile(self.path, page)
                self._image = self._image or _header(self.path)
                self._image.seek(page)
                return _by_pillow(self._image, self.path, page, self.stored[index])
            finally:
                if self._image and index + 1 == len(self.stored):
                    self._image.close()
                    self._image = None


def pages(files: Sequence[Path]) -> list[Path | Page]:
    """The files, with each TIFF of several pages replaced by its pages.

    The last page of a TIFF that breaks off is one that cannot be decoded.
    """
    found: list[Path | Page] = []
    for file in files:
        stored: list[_Stored] = []
        if file.suffix.lower() in (".tif", ".tiff"):
            try:
                for page in _stored_pages(file):
                    stored.append(page)
            except Exception:  # of any kind; `decode` will say what is wrong
                stored += [_Stored(0, 0, None, page.page + 1) for page in stored[-1:]]
        stack = _Stack(file, stored)
        found += [Page(stack, index) for index in range(len(stored))] if stored[1:] else [file]
    return found


# Headers


def _stored_pages(path: Path) -> Iterator[_Stored]:
    """Yields an entry per page of a TIFF, or one for another picture; raises any exception.

    Later pages that are smaller copies or masks are left out.
    """
    if _only_tifffile_reads(path):
        import tifffile

        with tifffile.TiffFile(path) as file:
            for index, page in enumerate(file.pages):
                if not index or not page.subfiletype & _NO_FRAME:
                    yield _Stored(page.imagelength, page.imagewidth, None, index)
        return
    with _header(path) as image:
        yield from _stored_in(image)


def _stored_in(image: Image.Image) -> Iterator[_Stored]:
    """`_stored_pages` of a picture that Pillow has opened; seeks to its last page."""
    yield _Stored.of(image)
    for index in count(1) if image.format == "TIFF" else ():
        try:
            image.seek(index)
        except EOFError:
            told = _IMAGEJ.match(str(image.tag_v2.get(_DESCRIPTION, "")))
            if index == 1 and told and _holds(image, int(told[1])):
                raise UserError(f"ImageJ keeps {told[1]} images in one entry of this TIFF; save "
                                "them as an image sequence") from None
            return
        if not image.tag_v2.get(_SUBFILE, 0) & _NO_FRAME:
            yield _Stored.of(image, index)


def _holds(image: Image.Image, images: int) -> bool:
    """True if a TIFF of one entry is long enough for several images, as ImageJ's above 4 GB are.

    A single image may have the description of the stack that it was taken from.
    """
    tags = image.tag_v2
    size = image.width * image.height * sum(tags.get(_BITS, (1,))) // 8
    start = tags.get(_STRIPS, (0,))[0]  # none in tiles
    return images > 1 and 0 < start <= image.fp.seek(0, os.SEEK_END) - images * size


def read_size(path: str | Path | Page) -> tuple[int, int] | None:
    """Height and width from the file's header alone; None if the header cannot be read."""
    if isinstance(path, Page):
        height, width = path.stack.stored[path.index][:2]
        return (height, width) if height else None  # none of a page that broke off
    with contextlib.suppress(Exception), contextlib.closing(_stored_pages(Path(path))) as stored:
        return next(stored)[:2]
    return None


def read_orientation(path: Path) -> int:
    """The EXIF orientation in which viewers show a file, 1 to 8; 1 is as stored."""
    with contextlib.suppress(Exception), _header(path) as image:
        return image.getexif().get(_ORIENTATION, 1)
    return 1

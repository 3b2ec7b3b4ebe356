"""Picture files decoded at their full depth, by Pillow and, where Pillow cannot, by tifffile."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError

# In order of preference where one stem has several files.
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".gif", ".webp",
              ".jpg", ".jpeg")
KINDS = ", ".join(extension[1:] for extension in EXTENSIONS)

# What Pillow may take a file for, whatever its name: among the others are programs (EPS).
_FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "GIF", "WEBP", "PPM")

# Tags of a TIFF.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 0x100, 0x101, 0x102, 0x106, 0x112
_SAMPLES, _PLANES, _EXTRA, _SAMPLE_FORMAT = 0x115, 0x11C, 0x152, 0x153
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED, _ALPHA = 0, 1, 2, (1, 2)

_TURN = Image.Transpose
_BACK = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM,
         5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270}

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it raises, too, what it logs


class Picture(NamedTuple):
    """A decoded picture, its pixels as they are stored.

    Attributes:
        values: H×W, or H×W×3 in colour; integers or floats of any range.
        alpha: H×W, or None.
        indices: of a palette, H×W, or None.
        format: as Pillow calls it.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    indices: np.ndarray | None = None
    format: str = "TIFF"


class Stored(NamedTuple):
    """The shape of a picture as its file holds it. Pillow turns a TIFF as its tag says."""

    height: int
    width: int
    orientation: int = 1

    @classmethod
    def of(cls, image: Image.Image) -> Stored:
        """By the header: decoding may take the tag away."""
        if image.format != "TIFF":
            return cls(image.height, image.width)
        tags = image.tag_v2
        return cls(tags[_HEIGHT], tags[_WIDTH], tags.get(_ORIENTATION, 1))

    def restore(self, image: Image.Image) -> Image.Image:
        """The decoded picture, turned back."""
        back = _BACK.get(self.orientation)
        return image if back is None else image.transpose(back)


def _header(path: Path) -> Image.Image:
    """The picture before it is decoded."""
    image = Image.open(path, formats=_FORMATS)
    image.filename = ""  # Pillow would map a TIFF into memory at the size that it has when turned
    return image


def decode(path: Path) -> Picture:
    """Decodes a file of one picture.

    Raises:
        UserError: the file is missing, cannot be decoded, or is a stack of several frames.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: a folder, pipe or device, not a file; move it away")
    try:
        if _unknown_tiff(path):
            frames = len(_tifffile_pages(path))
            picture = _by_tifffile(path, 0)
        else:
            with _header(path) as image:
                if image.format == "PNG":  # decoding alone takes damaged pixels for good ones
                    image.verify()
            with _header(path) as image:
                # A camera's JPEG may carry a preview as its second frame.
                frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
                picture = _picture(image, path, 0, Stored.of(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise _refusal(path, error) from error
    if frames > 1:
        stacks = " (test.py --input takes TIFFs of several pages)" * (picture.format == "TIFF")
        raise UserError(f"{path}: a stack of {frames} frames; save each frame as a file of its own"
                        f"{stacks}")
    return picture


def _refusal(path: Path | Page, error: Exception) -> UserError:
    """What the user reads where a decoder has raised an error."""
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                         "cut it into pieces")
    unknown = isinstance(error, UnidentifiedImageError)  # its text only repeats the path
    reason = "unknown format" if unknown else f"{type(error).__name__}: {error}"
    reason = reason.replace(str(path), path.name)
    return UserError(f"{path}: cannot be read as an image ({' '.join(reason.split())}); copy or "
                     "download it anew if it is damaged, else save it as PNG")


def _picture(image: Image.Image, path: Path, number: int, stored: Stored) -> Picture:
    """Decodes a file that Pillow has opened, at its page of this number, from 0 on."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    samples, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))[0]
    two = samples == 2 and tags.get(_EXTRA, (0,))[0] not in _ALPHA  # the first, by Pillow
    if two or (samples > 1 and bits > 8 and tags.get(_PLANES) == 2):
        return _by_tifffile(path, number)
    if image.format == "PPM" and image.mode == "RGB" and image.tile and _maximum(image) > 255:
        raise UserError(f"{path}: a PPM of 16 bits per channel; save it as PGM or PNG, in grey")
    if samples > 1 and bits > 8 or image.format == "PNG" and ";16" in _raw(image) and (
            image.mode != "I;16"):
        return _sixteen_bits(path, number, stored, image.format)
    image.load()
    picture = _channels(stored.restore(image), path)._replace(format=image.format)
    values, kind = picture.values, tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if tags and values.dtype == np.uint8 and kind == _SIGNED:
        values = values.view(np.int8)
    if tags and values.dtype == np.int32 and kind == _UNSIGNED:
        values = values.view(np.uint32)
    # Of these modes Pillow leaves the polarity as it is.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode[0] in "IF":
        values = _inverted(values)
    return picture._replace(values=values)


def _raw(image):
    """How Pillow would unpack the pixels; empty once it has."""
    arguments = image.tile[0][3] if image.tile else ""
    return arguments if isinstance(arguments, str) else arguments[0]


def _maximum(image):
    arguments = image.tile[0][3]
    return 0 if isinstance(arguments, str) else arguments[1]


def _channels(image: Image.Image, path: Path) -> Picture:
    """The channels of a decoded picture of 8 bits per channel, or of one channel of any depth."""
    if image.mode == "LAB":  # the one mode that Pillow reads but cannot convert
        raise UserError(f"{path}: colours in Lab; save it in grey or RGB")
    if image.mode == "1":
        return Picture(np.asarray(image.convert("L")))
    if image.mode == "L" or image.mode[0] in "IF":
        values = np.asarray(image)
        return Picture(values.astype(values.dtype.newbyteorder("=")))
    if image.mode in ("LA", "La"):
        values = np.asarray(image.convert("LA"))
        return Picture(values[..., 0], values[..., 1])
    if image.mode in ("RGBA", "RGBa", "P", "PA"):
        values = np.asarray(image.convert("RGBA"))
        indices = np.asarray(image) if image.mode == "P" else None
        return Picture(values[..., :3], values[..., 3], indices)
    return Picture(np.asarray(image.convert("RGB")))


def _sixteen_bits(path: Path, number: int, stored: Stored, kind: str) -> Picture:
    """Decodes a PNG or TIFF of several channels of 16 bits, of which Pillow keeps the upper 8.

    Pillow unpacks one byte of each two: which one is said by the byte order of its raw mode. So the
    file is decoded twice, the second time in the other order.
    """
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    halves = []
    for lower in (False, True):
        with _header(path) as image:
            image.seek(number)
            raw = _raw(image)
            if image.mode not in ("RGB", "RGBA", "LA"):
                raise UserError(f"{path}: colours that are neither grey nor RGB; save it in grey")
            plain = raw.replace("RGBa", "RGBA")  # as stored, not divided by alpha
            if raw == "LA;16B":  # four bytes per pixel: decoded once, as if they were colours
                plain = "RGBA"
            elif lower:
                plain = plain[:-1] + other[plain[-1]]
            image.tile = [_with(tile, plain) for tile in image.tile]
            halves.append(np.asarray(stored.restore(image)).astype(np.uint16))
    if raw == "LA;16B":
        values = halves[0][..., ::2] * np.uint16(256) + halves[0][..., 1::2]
        return Picture(values[..., 0], values[..., 1], format=kind)
    values = halves[0] * np.uint16(256) + halves[1]
    return Picture(values[..., :3], values[..., 3] if values.shape[2] == 4 else None, format=kind)


def _with(tile, raw):
    arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def _inverted(values):
    """The values of a picture whose zero is white, so that more is brighter."""
    if values.dtype.kind == "u":
        return np.iinfo(values.dtype).max - values
    return ~values if values.dtype.kind == "i" else -values


# TIFFs that Pillow does not read: 64 bits, floats of 16 bits, two channels of 16 bits


def _unknown_tiff(path):
    """Whether a file is a TIFF of a kind that Pillow does not know."""
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return False
    try:
        _header(path).close()
    except UnidentifiedImageError:
        return True
    return False


def _tifffile_pages(path: Path) -> list[Stored]:
    import tifffile  # half as long to import as all of NumPy, and few need it

    with tifffile.TiffFile(path) as file:
        return [Stored(page.imagelength, page.imagewidth) for page in file.pages]


def _by_tifffile(path: Path, number: int) -> Picture:
    """Decodes a page of a TIFF.

    Raises:
        UserError: it is of a kind that has no grey levels, or several channels that differ.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[number]
        if page.imagelength * page.imagewidth > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        values, axes, photometric = page.asarray(), page.axes, int(page.photometric)
        alpha = [int(extra) in _ALPHA for extra in page.extrasamples]
    if values.dtype.kind not in "buif":
        raise UserError(f"{path}: {values.dtype} pixels; save real numbers, one per pixel")
    values = values.astype(values.dtype.newbyteorder("="))
    if axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise UserError(f"{path}: pixels in {len(axes)} dimensions ({axes}); save each plane as a "
                        "file of its own")
    values = np.atleast_3d(values)
    colours = values.shape[2] - len(alpha)
    if photometric not in (0, 1, 2) or colours not in (1, 3):
        raise UserError(f"{path}: colours that are neither grey nor RGB; save it in grey")
    transparency = values[..., colours + alpha.index(True)] if True in alpha else None
    if colours == 1 and False in alpha and (values != values[..., :1]).any():
        raise UserError(f"{path}: {values.shape[2]} channels that differ; save one, in grey")
    values = values[..., :3] if colours == 3 else values[..., 0]
    if photometric == _WHITE_IS_ZERO:
        values = _inverted(values)
    return Picture(values, transparency)


# Pages


class Page:
    """One page of a TIFF that holds several, as thermal cameras write; read when it is needed.

    Has the names that a `Path` has: the file's, with the number of the page, from 1 on.

    Attributes:
        path: of the file.
        number: of the page, from 1 on.
        stem, suffix, name: `stack_0003`, `.tif`, `stack_0003.tif`.
    """

    def __init__(self, stack: _Stack, number: int):
        self._stack, self.path, self.number = stack, stack.path, number
        self.suffix = self.path.suffix
        self.stem = f"{self.path.stem}_{number:0{max(4, len(str(len(stack.stored))))}d}"
        self.name = self.stem + self.suffix

    def __str__(self) -> str:
        return f"{self.path} page {self.number}"

    def decode(self) -> Picture:
        """As `decode`."""
        return self._stack.decode(self)

    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._stack.stored[self.number - 1][:2]


class _Stack:
    """A TIFF of several pages, open from the first page that is read to the last.

    To open it for every page would mean to walk through all pages before, each time.
    """

    def __init__(self, path: Path, stored: list[Stored]):
        self.path, self.stored = path, stored
        self._image: Image.Image | None = None
        self._lock = threading.Lock()  # threads read ahead, and the file has one position

    def decode(self, page: Page) -> Picture:
        index = page.number - 1
        with self._lock:
            try:
                if not self._image and _unknown_tiff(self.path):
                    return _by_tifffile(self.path, index)
                self._image = self._image or _header(self.path)
                self._image.seek(index)
                return _picture(self._image, self.path, index, self.stored[index])
            except UserError as error:
                raise UserError(str(error).replace(str(self.path), str(page), 1)) from error
            except Exception as error:  # as in `decode`
                raise _refusal(page, error) from error
            finally:
                if self._image and page.number == len(self.stored):
                    self._image.close()
                    self._image = None


def pages(files: Sequence[Path]) -> list[Path | Page]:
    """Files of one picture as they are, and in place of a TIFF of several each of its pages."""
    found: list[Path | Page] = []
    for file in files:
        stack = _Stack(file, list(_stored_pages(file)))
        several = range(1, len(stack.stored) + 1) if len(stack.stored) > 1 else ()
        found += [Page(stack, number) for number in several] or [file]
    return found


def _stored_pages(file: Path) -> list[Stored]:
    """The pages of a TIFF by their headers; empty for other files."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return []
    with contextlib.suppress(Exception):  # `decode` will say what is wrong
        if _unknown_tiff(file):
            return _tifffile_pages(file)
        with _header(file) as image:
            return list(_walk(image))
    return []


def _walk(image: Image.Image) -> Iterator[Stored]:
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        yield Stored.of(image)


# Headers


def read_size(path: str | Path | Page) -> tuple[int, int] | None:
    """Height and width by the file's header alone; None if that cannot be read."""
    if isinstance(path, Page):
        return path.size()
    with contextlib.suppress(Exception):  # `decode` will say what is wrong
        if _unknown_tiff(Path(path)):
            return _tifffile_pages(Path(path))[0][:2]
        with _header(Path(path)) as image:
            return Stored.of(image)[:2]
    return None


def read_orientation(path: Path) -> int:
    """The turn that a file's header asks of whoever shows it, as EXIF numbers them; 1 is none."""
    with contextlib.suppress(Exception), _header(path) as image:
        if image.format == "TIFF":
            return image.tag_v2.get(_ORIENTATION, 1)
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return exif.get(_ORIENTATION, 1)
    return 1

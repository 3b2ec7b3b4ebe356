"""Grey images and binary masks: reading, resizing, padding. Pillow and NumPy only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError, listed

# In order of preference where one stem has several files.
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")

FULL = 255  # the level of a target in a mask
FAINT = 8  # a pixel has so many neighbours: all of them may be its grey edge

# What Pillow may take a file for, whatever its name: among the others are programs (EPS).
_FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "GIF", "WEBP", "PPM")

_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV")

_WIDTH, _HEIGHT, _ORIENTATION = 0x100, 0x101, 0x112  # tags of a TIFF
_TURN = Image.Transpose
_BACK = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM,
         5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270}


class _Stored(NamedTuple):
    """A picture as its file holds it. Pillow turns a TIFF as its tag says, and no other kind."""

    height: int
    width: int
    orientation: int = 1

    @classmethod
    def of(cls, image: Image.Image) -> _Stored:
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


def _open(path: Path) -> Image.Image:
    """The decoded picture.

    Raises:
        UserError: the file is missing, cannot be decoded, or is a stack of several frames.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: a folder, pipe or device, not a file; move it away")
    try:
        with _header(path) as image:
            if image.format == "PNG":  # decoding alone takes damaged pixels for good ones
                image.verify()
        with _header(path) as image:
            frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            stored = _Stored.of(image)
            image.load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise _refusal(path, error) from error
    if frames > 1:
        raise UserError(f"{path}: a stack of {frames} frames; save each frame as a file of its own "
                        "(test.py --input takes stacks)")
    return stored.restore(image)


def _refusal(path: Path | Page, error: Exception) -> UserError:
    """What the user reads where Pillow has raised an error."""
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels; "
                         "cut it into pieces")
    unknown = isinstance(error, UnidentifiedImageError)  # its text only repeats the path
    reason = "unknown format" if unknown else f"{type(error).__name__}: {error}"
    return UserError(f"{path}: cannot be read as an image ({' '.join(reason.split())}); "
                     "copy or download the file anew")


def _gray(image: Image.Image, path: Path | Page) -> np.ndarray:
    """The grey levels of a decoded picture, H×W uint8 or uint16."""
    if image.mode == "LAB":  # the one mode that Pillow reads but cannot convert
        raise UserError(f"{path}: colours in Lab; save it in grey or RGB")
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "I" and low >= 0 and high <= 65535:
            return values.astype(np.uint16)
        if image.mode == "F" and low >= 0 and high <= 1:  # false for NaN
            return np.rint(values * np.float32(65535)).astype(np.uint16)
        raise UserError(
            f"{path}: {'32-bit integers' if image.mode == 'I' else 'floating point'} from {low:g} "
            f"to {high:g}; save it with 8 or 16 bits a pixel"
        )
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent palettes
    return np.asarray(image.convert("L"))


def read_gray(path: str | Path) -> np.ndarray:
    """Reads a picture as grey levels.

    Any mode that Pillow decodes: grey, RGB, RGBA, palette, 1-bit, 8 or 16 bits; colours become
    grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B, rounded). Transparency and EXIF orientation
    are ignored: the pixels count as they are stored, so that masks stay aligned. Floating-point
    TIFFs in [0, 1] become 16 bit. Colour files of 16 bits a channel are read with 8.

    Returns:
        H×W uint8 or uint16.

    Raises:
        UserError: the file is missing, damaged, too large, a stack of frames, or of another range.
    """
    return _gray(_open(Path(path)), Path(path))


class Page:
    """One page of a TIFF that holds several, as thermal cameras write; read when it is needed.

    Has what `Path` has of a name: that of the file with the number of the page, from 1 on.

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

    def read(self) -> np.ndarray:
        """As `read_gray`."""
        return self._stack.read(self)

    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._stack.stored[self.number - 1][:2]


class _Stack:
    """A TIFF of several pages, open from the first read to that of the last page.

    To open it for every page would mean to walk through all pages before, each time.
    """

    def __init__(self, path: Path, stored: list[_Stored]):
        self.path, self.stored = path, stored
        self._image: Image.Image | None = None
        self._lock = threading.Lock()  # threads read ahead, and the file has one position

    def read(self, page: Page) -> np.ndarray:
        with self._lock:
            try:
                self._image = self._image or _header(self.path)
                self._image.seek(page.number - 1)
                image = self.stored[page.number - 1].restore(self._image.copy())
            except Exception as error:  # as in `_open`
                raise _refusal(page, error) from error
            finally:
                if self._image and page.number == len(self.stored):
                    self._image.close()
                    self._image = None
        return _gray(image, page)


def pages(files: Sequence[Path]) -> list[Path | Page]:
    """Files of one picture as they are, and in place of a TIFF of several each of its pages."""
    found: list[Path | Page] = []
    for file in files:
        stack = _Stack(file, _stored_pages(file))
        several = range(1, len(stack.stored) + 1) if len(stack.stored) > 1 else ()
        found += [Page(stack, number) for number in several] or [file]
    return found


def _stored_pages(file: Path) -> list[_Stored]:
    """The pages of a TIFF by their headers; empty for other files."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return []
    stored = []
    try:
        with _header(file) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                stored.append(_Stored.of(image))
    except Exception:  # `read_gray` will say what is wrong
        return []
    return stored


def read_frame(frame: Path | Page) -> np.ndarray:
    """The grey levels of a file or of a page, as `read_gray`."""
    return frame.read() if isinstance(frame, Page) else read_gray(frame)


def read_size(path: str | Path | Page) -> tuple[int, int] | None:
    """Height and width by the file's header alone; None if that cannot be read."""
    if isinstance(path, Page):
        return path.size()
    try:
        with _header(path) as image:
            return _Stored.of(image)[:2]
    except Exception:  # `read_gray` will say what is wrong
        return None


def read_mask(path: str | Path) -> np.ndarray:
    """Reads a mask, H×W uint8 of 0 and 1: what lies above half of full scale is target.

    Raises:
        UserError: as `read_levels`.
    """
    return binary(read_levels(path))


def binary(levels: np.ndarray) -> np.ndarray:
    """0 and 1 from the levels of a mask: target above half of full scale."""
    return (levels > FULL // 2).astype(np.uint8)


def read_levels(path: str | Path) -> np.ndarray:
    """Reads a mask with the grey levels that it may have at the edges of targets.

    0 is background; 1, 255 or the full 16-bit scale is target. Grey, RGB with equal channels,
    1-bit, and palette files; in the last either the colours are black and white, or the indices are
    0 (black) and 1 (any colour), as annotation tools write.

    A picture with levels between is a mask if at least half of it is black, something lies above
    half of full scale, and for each pixel above there are at most `FAINT` of the others that are
    not black. A photograph has no black ground, class numbers nothing bright, and a JPEG spoils the
    black ground and is refused whatever it holds.

    Returns:
        H×W uint8, 0 to 255.

    Raises:
        UserError: the file cannot be read, or is no mask (says which values it has).
    """
    path = Path(path)
    image = _open(path)
    values = None
    if image.mode == "P":
        indices = np.asarray(image)
        if indices.max() == 1 and image.getpalette()[:3] == [0, 0, 0]:
            values = indices
    if values is None and image.mode in _COLOUR_MODES:
        channels = np.asarray(image.convert("RGBA").convert("RGB"))
        if (channels != channels[..., :1]).any():
            raise UserError(
                f"{path}: not a binary mask but a picture in colour; "
                "save it in grey, 0 for background and 255 for target"
            )
        values = channels[..., 0]
    if values is None:
        values = _gray(image, path)

    counts = np.bincount(values.ravel())
    found = np.flatnonzero(counts)
    high = found[-1]
    if high <= 1 or (high in (FULL, 65535) and set(found) <= {0, high}):
        return (values > 0).astype(np.uint8) * np.uint8(FULL)
    full = FULL if high <= FULL else 65535
    above = counts[full // 2 + 1:].sum()
    faint = counts[1:full // 2 + 1].sum()
    jpeg = image.format == "JPEG"
    if jpeg or 2 * counts[0] < values.size or not above or faint > FAINT * above:
        some = listed([str(value) for value in found], shown=4)
        some += f" up to {high}" if len(found) > 4 else ""
        raise UserError(
            f"{path}: not a binary mask (values {some}); save it with 0 for background and 255 for "
            f"target{' (JPEG cannot keep a mask: use PNG)' if jpeg else ''}"
        )
    return np.rint(values * (FULL / full)).astype(np.uint8)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 of any shape to float32 in [0, 1], divided by 255 or 65535."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"uint8 or uint16 expected, not {image.dtype}")
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def stretch(image: np.ndarray) -> np.ndarray:
    """Spreads the grey levels that an image has over [0, 1], for cameras of 10 to 14 bits.

    From the 0.01 to the 99.99 percentile, so that some dead or hot pixels do not decide it; what
    lies beyond is clipped. An image of one grey level becomes 0.

    Args:
        image: H×W uint8 or uint16.

    Returns:
        H×W float32.
    """
    low, high = np.percentile(image, (0.01, 99.99)).astype(np.float32)
    return np.clip((image - low) / max(high - low, np.float32(1)), 0, 1)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize (Pillow's, which averages when shrinking) of an H×W uint8 or uint16.

    Args:
        size: (height, width); an image that has it already is returned as it is.
    """
    if image.shape == tuple(size):
        return image
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    # Not every Pillow resizes 16-bit images; float32 holds them exactly.
    wide = Image.fromarray(image.astype(np.float32))
    return np.rint(np.asarray(wide.resize(size[::-1], Image.Resampling.BILINEAR))).astype(np.uint16)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of an H×W uint8 mask to (height, width)."""
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def list_images(path: str | Path) -> list[Path]:
    """The image itself, or the images of a folder (not of its subfolders), sorted by name.

    Raises:
        UserError: nothing is there, or the folder holds no image.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such image or folder; check the path")
    # "._NAME.png" and the like are what other systems leave beside the real files.
    found = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
        raise UserError(f"{path}: no image in this folder; it must hold files of type {kinds}")
    return found


def input_name(path: str | Path) -> str:
    """What stands for the dataset's name in the results of a file or folder."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.stem

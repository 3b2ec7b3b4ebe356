"""Grey images and binary masks: reading, resizing, stretching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.decoding import EXTENSIONS, KINDS, Page, Picture, decode
from utils.errors import UserError, listed

FULL = 255  # the level of a target in a mask
FAINT = 8  # the neighbours of a pixel: all of them may be its grey edge
_BLURRING = ("JPEG", "MPO", "WEBP")  # formats that change the values around an edge

_LUMA = np.array([19595, 38470, 7471]) / 65536  # ITU-R 601, as Pillow rounds it


def read_gray(path: str | Path, any_range: bool = False) -> np.ndarray:
    """Reads a picture as grey levels.

    Any mode that Pillow or tifffile decodes: grey, RGB, RGBA, palette, 1-bit, 8 or 16 bits; colours
    become grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B, rounded). Transparency and EXIF
    orientation are ignored: the pixels count as they are stored, so that masks stay aligned. TIFFs
    whose zero is white are inverted. Floating-point TIFFs in [0, 1] become 16 bit.

    Args:
        any_range: takes other floats and integers, too, as they are, for `stretch`.

    Returns:
        H×W uint8 or uint16; with `any_range` also other integers and floats, all finite.

    Raises:
        UserError: the file is missing, damaged, too large, a stack of frames, has pixels that are
            not finite, or is of another range.
    """
    return _gray(decode(Path(path)), Path(path), any_range)


def read_frame(frame: Path | Page, any_range: bool = False) -> np.ndarray:
    """The grey levels of a file or of a page, as `read_gray`."""
    if isinstance(frame, Page):
        return _gray(frame.decode(), frame, any_range)
    return read_gray(frame, any_range)


def _gray(picture: Picture, path: Path | Page, any_range: bool) -> np.ndarray:
    values = _luma(picture.values)
    if values.dtype in (np.uint8, np.uint16):
        return values
    _check_finite(values, path)
    low, high = values.min(), values.max()
    floats = values.dtype.kind == "f"
    if not floats and low >= 0 and high <= 65535:
        return values.astype(np.uint16)
    if any_range:
        return values
    if floats and low >= 0 and high <= 1:
        return np.rint(values * np.float32(65535)).astype(np.uint16)
    bits = 8 * values.itemsize
    raise UserError(
        f"{path}: {bits}-bit {'floating point' if floats else 'integers'} from {low:g} to {high:g};"
        " save it with 8 or 16 bits per pixel, or give it to test.py --input with --stretch"
    )


def _luma(values: np.ndarray) -> np.ndarray:
    """The grey levels of colours, at their own depth."""
    if values.ndim == 2:
        return values
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).convert("L"))
    luma = values @ _LUMA
    return luma if values.dtype.kind == "f" else np.rint(luma).astype(values.dtype)


def _check_finite(values: np.ndarray, path: Path | Page) -> None:
    if values.dtype.kind != "f":
        return
    for what, bad in (("NaN", np.isnan(values)), ("infinity", np.isinf(values))):
        if bad.any():
            raise UserError(f"{path}: {what} in {bad.sum()} of {bad.size} pixels, as of dead "
                            "detectors; give each the mean of its neighbours")


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

    A picture of two values is a mask if one of them is black, on at least half of it: the other is
    target, whatever grey or colour it is, at any depth. Black alone is a mask without a target.
    Where all colours of a palette are one, its indices count. A shape that is in the alpha channel
    alone is refused, and so is a shape that differs from the colours' shape.

    A grey picture of more values is a mask if at least half of it is black, something lies above
    half of full scale, and for each pixel above there are at most `FAINT` of the others that are
    not black. A photograph has no black ground, class numbers nothing bright, and JPEG and WebP
    spoil the black ground and are refused.

    Returns:
        H×W uint8, 0 to 255.

    Raises:
        UserError: the file cannot be read, or is no mask (says which values it has).
    """
    path = Path(path)
    picture = decode(path)
    colours, alpha = picture.values, picture.alpha
    if alpha is None or _constant(alpha):
        if picture.indices is not None and _constant(colours):
            colours = picture.indices
        return _levels(colours, path, picture.format)
    if _constant(colours):
        raise UserError(f"{path}: not a binary mask but one colour, with a shape in its alpha "
                        "channel; save that in grey, 0 for background and 255 for target")
    levels = _levels(colours, path, picture.format)
    if (binary(levels) != (alpha > np.iinfo(alpha.dtype).max // 2)).any():
        raise UserError(f"{path}: its colours and its alpha channel show different targets; save "
                        "the mask without alpha")
    return levels


def _constant(values: np.ndarray) -> bool:
    """Whether all pixels are alike."""
    return bool((values == values[0, 0]).all())


def _levels(values: np.ndarray, path: Path, kind: str) -> np.ndarray:
    """The levels of a mask, 0 to 255, from its grey levels H×W or its colours H×W×3.

    Args:
        kind: the file's format.
    """
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    _check_finite(values, path)
    coloured = values.ndim == 3
    if coloured:
        values = values.astype(np.int64) @ (1 << 32, 1 << 16, 1)  # a number for each colour
    found, counts = np.unique(values, return_counts=True)
    found = found.astype(np.float64)
    black = counts[found == 0].sum() / values.size
    if len(found) <= 2 and black >= 0.5:
        return (values != 0) * np.uint8(FULL)
    levels = None if coloured or kind in _BLURRING else _grey_levels(values, found, counts)
    if levels is not None:
        return levels
    if coloured:
        some = f"{len(found)} colours"
    else:
        some = listed([f"{value:g}" for value in found], shown=4)
        some = f"values {some}{f' up to {found[-1]:g}' if len(found) > 4 else ''}"
    some += f"; black on {100 * black:.0f} % of it" if len(found) <= 2 else ""
    cure = f" ({kind} cannot keep a mask: use PNG)" if kind in _BLURRING and len(found) > 2 else ""
    raise UserError(f"{path}: not a binary mask{' but a picture in colour' * coloured} "
                    f"({some}); save it with 0 for background and 255 for target{cure}")


def _grey_levels(
    values: np.ndarray, found: np.ndarray, counts: np.ndarray
) -> np.ndarray | None:
    """The levels of a grey mask, 0 to 255; None if it is none.

    Args:
        values: H×W.
        found: the values that occur, in order, and `counts`: how often each does.
    """
    high = found[-1]
    if values.dtype.kind == "f" and high <= 1:
        full = 1
    else:
        full = FULL if high <= FULL else 65535
    above = counts[2 * found > full].sum()
    faint = counts[(found > 0) & (2 * found <= full)].sum()
    ground = counts[found == 0].sum()
    if (found[0] < 0 or high > full or 2 * ground < values.size or not above
            or faint > FAINT * above):
        return None
    return np.rint(values * (FULL / full)).astype(np.uint8)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 of any shape to float32 in [0, 1], divided by 255 or 65535."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"uint8 or uint16 expected, not {image.dtype}")
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def stretch(image: np.ndarray) -> np.ndarray:
    """Spreads the grey levels that an image has over [0, 1]: of 10 to 14 bits, of temperatures.

    From the 0.01 to the 99.99 percentile, so that some dead or hot pixels do not decide it; what
    lies beyond is clipped. An image of one grey level becomes 0.

    Args:
        image: H×W integers or floats of any range, all finite.

    Returns:
        H×W float32.
    """
    whole = image.dtype.kind in "iu"
    exact = np.float32 if image.dtype in (np.uint8, np.uint16) else np.float64
    image = image if exact is np.float32 else image.astype(exact)
    low, high = np.percentile(image, (0.01, 99.99)).astype(exact)
    least = 1 if whole else np.finfo(exact).tiny
    return np.clip((image - low) / max(high - low, exact(least)), 0, 1).astype(np.float32)


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
        raise UserError(f"{path}: no image in this folder; it must hold files of type {KINDS}")
    return found


def input_name(path: str | Path) -> str:
    """What stands for the dataset's name in the results of a file or folder."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.stem

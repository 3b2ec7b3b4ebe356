"""Grey images and binary masks: reading, resizing, stretching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from utils.data.decoding import EXTENSIONS, KINDS, Page, decode
from utils.data.layouts import FOLDERS, walk
from utils.errors import UserError, listed
from utils.paths import is_result

FULL = 255  # the level of a target in a mask
FAINT = 8  # most faint pixels per bright pixel of a mask: its eight neighbours
_BLURRING = ("JPEG", "MPO", "WEBP")  # formats that change the values around an edge

_LUMA = np.array([19595, 38470, 7471]) / 65536  # ITU-R 601, as Pillow rounds it


def read_gray(path: str | Path | Page, any_range: bool = False) -> np.ndarray:
    """Reads a picture, or a page of a TIFF, as grey levels.

    Reads every mode that Pillow or tifffile decodes: grey, RGB, RGBA, palette, 1 bit, 8 or 16 bits.
    Colours become grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B, rounded). Transparency and EXIF
    orientation are ignored: pixels stay as they are stored, so that masks stay aligned. TIFFs
    whose zero is white are inverted. Floating-point TIFFs in [0, 1] become 16 bit.

    Args:
        any_range: True also accepts other floats and integers, unchanged, for `stretch`.

    Returns:
        H×W uint8 or uint16; with `any_range` also other integers and floats, all finite.

    Raises:
        UserError: the file is missing, damaged, too large or a stack of frames, or its pixels are
            not finite or of another range.
    """
    path = path if isinstance(path, Page) else Path(path)
    values = luma(decode(path).values)
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
    kind = f"{8 * values.itemsize}-bit {'floating point' if floats else 'integers'}"
    raise UserError(f"{path}: {kind} from {low:g} to {high:g}; save it with 8 or 16 bits per "
                    "pixel, or give it to test.py --input with --stretch")


def luma(values: np.ndarray) -> np.ndarray:
    """The grey levels of colours, at the depth of the colours."""
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


def binary(levels: np.ndarray) -> np.ndarray:
    """0 and 1 from the levels of a mask: target above half of full scale."""
    return (levels > FULL // 2).astype(np.uint8)


def has_grey(levels: np.ndarray) -> bool:
    """True if a mask has levels between background and target."""
    return bool(((levels > 0) & (levels < FULL)).any())


def read_levels(path: str | Path) -> np.ndarray:
    """Reads the grey levels of a mask; masks may have grey edges around targets.

    A picture of two values is a mask if one value is black, on at least half of the picture: the
    other value is target, in any grey or colour, at any depth. An all-black picture is a mask
    without a target. If all colours of a palette are alike, the palette's indices count. A shape
    in the alpha channel is refused if the colours do not show it.

    A grey picture of more values is a mask if at least half of it is black, some pixels lie above
    half of full scale, and at most `FAINT` fainter pixels that are not black come with each of
    them. A photograph has no black ground, and class numbers have nothing bright. JPEG and WebP
    spoil the black ground; such pictures are refused.

    Returns:
        H×W uint8, 0 to 255.

    Raises:
        UserError: the file cannot be read, or is no mask; the error names its values.
    """
    path = Path(path)
    picture = decode(path)
    colours, alpha = picture.values, picture.alpha
    shaped = alpha is not None and not _constant(alpha)
    if _constant(colours) and shaped:
        raise UserError(f"{path}: not a binary mask but one colour, with a shape in its alpha "
                        "channel; save that in grey, 0 for background and 255 for target")
    if _constant(colours) and picture.indices is not None:
        colours = picture.indices
    levels = _levels(colours, path, picture.format)
    if shaped and (binary(levels) != (alpha > np.iinfo(alpha.dtype).max // 2)).any():
        raise UserError(f"{path}: its colours and its alpha channel show different targets; save "
                        "the mask without alpha")
    return levels


def _constant(values: np.ndarray) -> bool:
    """True if all pixels are alike."""
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
        values = values.astype(np.int64) @ (1 << 32, 1 << 16, 1)  # one number per colour
    found, counts = np.unique(values, return_counts=True)
    found = found.astype(np.float64)
    black = counts[found == 0].sum() / values.size
    if len(found) <= 2 and black >= 0.5:
        return (values != 0) * np.uint8(FULL)
    blurring = kind in _BLURRING
    scales = (1, FULL, 65535) if values.dtype.kind == "f" else (FULL, 65535)
    full = min((scale for scale in scales if found[-1] <= scale), default=0)  # 0: no such scale
    above = counts[2 * found > full].sum()
    faint = counts[(found > 0) & (2 * found <= full)].sum()
    if (full and not coloured and not blurring and black >= 0.5 and found[0] >= 0
            and 0 < above and faint <= FAINT * above):
        return np.rint(values * (FULL / full)).astype(np.uint8)
    if coloured:
        some = f"{len(found)} colours"
    else:
        some = "values " + listed([f"{value:g}" for value in found], shown=4)
        some += f" up to {found[-1]:g}" * (len(found) > 4)
    some += f"; black on {100 * black:.0f} % of it" * (len(found) <= 2)
    cure = f" ({kind} cannot keep a mask: use PNG)" * (blurring and len(found) > 2)
    raise UserError(f"{path}: not a binary mask{' but a picture in colour' * coloured} "
                    f"({some}); save it with 0 for background and 255 for target{cure}")


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 of any shape to float32 in [0, 1], divided by 255 or 65535."""
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"uint8 or uint16 expected, not {image.dtype}")
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def stretch(image: np.ndarray) -> np.ndarray:
    """Spreads an image's grey levels over [0, 1]; for 10 to 14 bits and for temperatures.

    The 0.01 and 99.99 percentiles become 0 and 1, so that dead or hot pixels have no effect; levels
    beyond are clipped. An image of one grey level becomes 0.

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
    """Resizes H×W uint8 or uint16 by Pillow's bilinear filter, which averages when shrinking.

    Args:
        size: (height, width); an image of this size is returned unchanged.
    """
    if image.shape == tuple(size):
        return image
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    # Not every Pillow resizes 16-bit images; float32 holds them exactly.
    wide = Image.fromarray(image.astype(np.float32))
    return np.rint(np.asarray(wide.resize(size[::-1], Image.Resampling.BILINEAR))).astype(np.uint16)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an H×W uint8 mask to (height, width) by nearest neighbours."""
    if mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def list_images(path: str | Path) -> list[Path]:
    """The image itself, or the images in a folder and in all folders below it, sorted by path.

    Hidden files and folders are left out, folders of results that `test.py` has written, and
    folders of masks beside their images (`layouts.FOLDERS`). A folder with two links counts once.
    Raises a UserError if nothing is there, a folder cannot be read, or there is no image.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such image or folder; check the path")

    seen = set()

    def left_out(folder: Path) -> bool:
        if is_result(folder) or folder.resolve() in seen or any(
                folder.name == masks and (folder.parent / images).is_dir()
                for images, masks in FOLDERS):
            return True
        seen.add(folder.resolve())
        return False

    try:
        found = [file for file in walk(path, left_out)
                 if file.suffix.lower() in EXTENSIONS and file.is_file()]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its "
                        "permissions") from error
    if not found:
        raise UserError(f"{path}: no image in this folder or below; it must hold files of type "
                        f"{KINDS}")
    return sorted(found)


def input_name(path: str | Path) -> str:
    """The name of results for a file or folder, in place of a dataset's name."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.stem

"""Single images, pairs of image and mask, layouts of datasets: from files to arrays."""

from utils.data.images import read_gray, read_mask, to_float

__all__ = ["read_gray", "read_mask", "to_float"]

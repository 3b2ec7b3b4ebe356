"""The frames of --input, one after the other, before they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.decoding import pages, read_size
from utils.data.images import list_images, read_gray


class InputFrame(NamedTuple):
    """A frame that can be read.

    Attributes:
        name: of its results, with the sub-folders below the input: "night/camera_0003".
        file: its path below the input: "night/camera_0003.tif".
        read: returns H×W as `read_gray` does, given the `any_range` of `read_gray`.
        index: of a clip's frame, from 0.
        time: of a clip's frame, seconds from the clip's beginning.
    """

    name: str
    file: str
    read: Callable[[bool], np.ndarray]
    index: int | None = None
    time: float | None = None


class ImageSource:
    """An image, or the images in a folder and in all folders below it; pages of TIFFs one by one.

    Attributes:
        path: the image or the folder.
        count: number of frames.
        rate: frames per second, of a clip alone.

    Raises:
        UserError: nothing is there, or no image.
    """

    rate = None

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._folder = self.path.parent if self.path.is_file() else self.path
        self._files = pages(list_images(path))
        self.count = len(self._files)

    def sizes(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """Yields path and (height, width) of each frame; None if its header cannot be read."""
        return ((str(file), read_size(file)) for file in self._files)

    def order(self) -> list[str]:
        """The `file` of each frame, by path."""
        return [frame.file for frame in self]

    def __iter__(self) -> Iterator[InputFrame]:
        """Yields the frames by path. Names are stems, and stem_suffix if two files share one."""
        stems = Counter((file.parent, file.stem) for file in self._files)
        taken = set()
        for file in self._files:
            below = file.parent.relative_to(self._folder)
            shared = stems[file.parent, file.stem] > 1
            name = (below / (f"{file.stem}_{file.suffix[1:]}" if shared else file.stem)).as_posix()
            while name in taken:
                name += "_"
            taken.add(name)
            yield InputFrame(name, (below / file.name).as_posix(), partial(read_gray, file))

"""Clips: grey frames one by one, and pictures into a clip. By PyAV, which is optional."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from utils.data.images import luma
from utils.data.sources import InputFrame
from utils.errors import UserError
from utils.files import atomic_path

if TYPE_CHECKING:
    import av

EXTENSIONS = (".3gp", ".asf", ".avi", ".flv", ".h264", ".h265", ".hevc", ".m2ts", ".m4v",
              ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv",
              ".ts", ".vob", ".webm", ".wmv", ".y4m")


def is_clip(path: str | Path) -> bool:
    """True for a file with the suffix of a video."""
    return Path(path).suffix.lower() in EXTENSIONS and not Path(path).is_dir()


class ClipSource:
    """The frames of a clip; one frame at a time is decoded.

    Attributes:
        path: the file.
        count: number of frames as the file tells it, about; None if it does not.
        rate: frames per second.

    Raises:
        UserError: PyAV is not installed, or the file is missing, damaged or without a picture.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._opened() as (_, stream):
            self._size = stream.height, stream.width
            self.rate = stream.average_rate or Fraction(25)
            self._seconds = _told_seconds(stream)
            told = self._seconds and round(self._seconds * self.rate)
            self.count: int | None = stream.frames or told or None

    def sizes(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """Yields the path and (height, width) of the clip."""
        yield str(self.path), self._size

    def order(self) -> list[str]:
        """The `file` of all frames."""
        return [self.path.name]

    def __iter__(self) -> Iterator[InputFrame]:
        """Yields the frames; names are indices from 0: "000017".

        Damaged frames are counted but not yielded. If there are any, or if the clip breaks off, the
        last frame is one whose `read` raises a UserError that says so.
        """
        done, last, good, damaged = 0, 0.0, -1, []
        longest = shown = 1 / float(self.rate)  # seconds between two frames, and of the last
        with self._opened() as (container, stream):
            start = float((stream.start_time or 0) * stream.time_base)
            for frame in _decoded(container, stream):
                if frame is None or frame.is_corrupt:
                    damaged.append(done - 1)
                    done += frame is not None
                    continue
                time = done / float(self.rate) if frame.time is None else frame.time - start
                longest, last = max(longest, time - last), time
                shown = _seconds(frame) or longest
                yield InputFrame(f"{done:06d}", self.path.name,
                                 partial(_read, frame), done, round(last, 6))
                good, done = done, done + 1
        short = self._seconds and last + shown + 0.5 / self.rate < self._seconds
        if short or damaged and damaged[-1] >= good:
            told = f" of {self._seconds:.2f} s" if short else ""
            where = f"breaks off after frame {good}, at {last:.2f} s{told}"
        elif damaged:
            where = (f"{len(damaged)} damaged frame{'s' * (len(damaged) > 1)} left out, the first "
                     f"after frame {damaged[0]}")
        else:
            return
        yield InputFrame("", self.path.name, partial(
            _refuse, f"{self.path}: {where}; the other frames are done; copy or download it anew"))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.video.VideoStream]]:
        library = require_av(self.path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; check the path")
        try:  # `file:`, since FFmpeg takes `a:b.mkv` for an address; a playlist may name addresses
            container = library.open(f"file:{self.path}",
                                     options={"protocol_whitelist": "file"})
        except (library.error.FFmpegError, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as a video ({error.strerror}); copy or "
                            "download it anew if it is damaged") from error
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path}: no video in this file; check the path")
            yield container, container.streams.video[0]


def require_av(wanted_by: str | Path) -> ModuleType:
    """The package av; raises a UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{wanted_by}: needs the package av; pip install -r "
                        "requirements-video.txt") from error
    return av


def _told_seconds(stream: av.video.VideoStream) -> float | None:
    """The duration of the pictures as the file tells it; None if it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    with contextlib.suppress(KeyError, ValueError):  # Matroska, by FFmpeg
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        start = float((stream.start_time or 0) * stream.time_base)  # it counts from 0
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds) - start
    container = stream.container
    alone = len(container.streams) == 1 and container.duration
    return container.duration / 1e6 if alone else None


def _seconds(frame: av.VideoFrame) -> float:
    """How long a frame is shown, where rates vary; 0 if the file does not say."""
    return float((getattr(frame, "duration", None) or 0) * (frame.time_base or 0))


def _decoded(
    container: av.container.InputContainer, stream: av.video.VideoStream
) -> Iterator[av.VideoFrame | None]:
    """Yields the decoded frames, and None for data that cannot be decoded."""
    error = require_av(stream).error.FFmpegError
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except error:
                frames = [None]
            yield from frames
    except error:  # the file cannot be read any further
        yield None


def _read(frame: av.VideoFrame, any_range: bool) -> np.ndarray:
    """A decoded frame, H×W uint8, or uint16 in full range if the file has more than 8 bits."""
    kind = frame.format
    deep = max(component.bits for component in kind.components) > 8
    if kind.is_rgb or kind.has_palette:  # as the colours of images, and not as FFmpeg does
        return luma(frame.to_ndarray(format="rgb48le" if deep else "rgb24"))
    return frame.to_ndarray(format="gray16le" if deep else "gray")


def _refuse(problem: str, any_range: bool) -> np.ndarray:
    """Raises a UserError, in place of reading."""
    raise UserError(problem)


@contextlib.contextmanager
def clip_writer(path: Path, rate: Fraction) -> Iterator[Callable[[Image.Image, int], None]]:
    """Yields a function that adds a picture, with its index, to an H.264 clip at `path`.

    Pictures come by index, at least one; all have the size of the first picture, rounded up to
    even numbers. The clip is written whole or not at all.

    Raises:
        UserError: PyAV is not installed, or its FFmpeg has no encoder of H.264.
        OSError: the clip cannot be written.
    """
    library, stream = require_av(path), None
    with atomic_path(path) as temporary, library.open(str(temporary), "w") as container:

        def add(picture: Image.Image, index: int) -> None:
            nonlocal stream
            if stream is None:
                try:
                    stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
                except ValueError as error:
                    raise UserError(f"{path}: PyAV has no encoder libx264; pip install -r "
                                    "requirements-video.txt") from error
                stream.pix_fmt, stream.time_base = "yuv420p", 1 / rate
                stream.width, stream.height = (side + side % 2 for side in picture.size)
            whole = picture.crop((0, 0, stream.width, stream.height))
            frame = library.VideoFrame.from_image(whole)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode())

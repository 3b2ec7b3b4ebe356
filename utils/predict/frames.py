"""One's own images: a stream of frames through a network, and what is written of each."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils import places, runtime
from utils.data.images import Page, read_frame, stretch, to_float
from utils.errors import UserError, listed
from utils.files import atomic_path
from utils.predict.detections import (
    Detection,
    Frame,
    find_detections,
    save_coco,
    save_detections,
)
from utils.predict.maps import load_model, predict, predict_tiles
from utils.predict.overlays import draw_overlay
from utils.predict.prediction_files import save_prediction

FOURTEEN_BITS = 2**14
SHOWN = 20  # images that could not be used


class Options(NamedTuple):
    """How frames are treated.

    Attributes:
        threshold: a pixel is detected above this probability.
        tile: the side of tiles in pixels; None: whole frames.
        stretch: whether each frame's grey levels are spread over [0, 1] first.
        overlays: whether pictures with the detections circled are written.
        coco: whether the detections are written as COCO has them, too.
        num_workers: threads that read and write.
    """

    threshold: float = 0.5
    tile: int | None = None
    stretch: bool = False
    overlays: bool = True
    coco: bool = False
    num_workers: int = 4


def result_names(files: Sequence[Path | Page]) -> list[str]:
    """A name for the results of each file: its stem, and `a_png`, `a_tif` where that is not one."""
    stems = Counter(file.stem for file in files)
    taken, names = set(), []
    for file in files:
        name = file.stem if stems[file.stem] == 1 else f"{file.stem}_{file.suffix[1:]}"
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return names


class Outcome(NamedTuple):
    """What became of a stream of frames; `dark` are 16-bit images of 14 bits or less."""

    frames: list[Frame]
    problems: dict[str, str]  # file → why it could not be used
    seconds: float
    dark: int

    def describe(self) -> str:
        """One line: images, speed, detections; and one on 16-bit files that are nearly black."""
        counts = [len(frame.detections) for frame in self.frames]
        done, found = len(counts), sum(counts)
        speed = f"{done / self.seconds:.1f} images per second"
        if done < self.seconds:
            speed = f"{self.seconds / max(done, 1):.1f} s per image"
        text = (f"{done} image{'s' * (done != 1)} in {self.seconds:.1f} s ({speed}), "
                f"{found} detection{'s' * (found != 1)} in {done - counts.count(0)} of them")
        if self.dark:
            text += (f"\n16-bit files of 14 bits or less: {self.dark}. They are dark to the "
                     "network, being divided by 65535; --stretch spreads their grey levels")
        return text

    def check(self) -> None:
        """Raises UserError, which names them, if images could not be used."""
        problems = list(self.problems.values())
        total = len(self.frames) + len(problems)
        if total == len(problems) == 1:
            raise UserError(problems[0])
        if problems:
            raise UserError(f"{len(problems)} of {total} images could not be used:\n  "
                            + listed(problems, SHOWN, "\n  "))


def predict_frames(
    model_name: str, weights: Path, files: Sequence[Path | Page], folder: Path, options: Options
) -> Outcome:
    """Predicts images one at a time, each at its own size, reading ahead and writing behind.

    Below `folder`: `img/<model>/NAME.png`, `mat/<model>/NAME.mat`, `overlay/<model>/NAME.png`, and
    `detections/<model>.csv` and `.json`, and if wanted `.coco.json`; these also if it is
    interrupted.

    Args:
        weights: a file of weights.
        files: images, or pages of them; one that cannot be read is named in the outcome.

    Raises:
        UserError: the weights do not fit, or the results cannot be written.
    """
    net = load_model(model_name, weights)
    predict(net, np.zeros((1, 1, 64, 64), np.float32))  # Jittor compiles, which is not their speed
    run = {"model": model_name, "weights": str(weights), **options._asdict()}
    outcome = Outcome([], {}, 0.0, 0)
    began = time.perf_counter()
    try:
        try:
            dark = _stream(net, model_name, files, folder, options, outcome)
        finally:
            if outcome.frames:
                save_detections(*places.detections(folder, model_name), outcome.frames,
                                outcome.problems, run)
                if options.coco:
                    save_coco(places.coco(folder, model_name), outcome.frames,
                              f"{model_name} with {weights}, threshold {options.threshold:g}")
    except OSError as error:  # not of reading: that names the image and goes on
        raise UserError(f"{folder}: the results cannot be written ({error}); make room there, or "
                        "name another folder with --output") from error
    return outcome._replace(seconds=time.perf_counter() - began, dark=dark)


def _stream(
    net: runtime.jt.Module,
    model_name: str,
    files: Sequence[Path | Page],
    folder: Path,
    options: Options,
    outcome: Outcome,
) -> int:
    """Fills `outcome` and returns its `dark`; OSError where results cannot be written."""
    dark, shape = 0, None
    workers = max(1, options.num_workers)
    writing: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        stream = zip(result_names(files), _read_ahead(pool, files, workers))
        for name, (file, reading) in tqdm(
            stream, model_name, len(files), unit="image", disable=None
        ):
            try:
                image = reading.result()
            except UserError as error:
                outcome.problems[file.name] = str(error)
                continue
            if image.shape != shape:  # or the memory of every size would be kept
                shape = image.shape
                runtime.jt.gc()
            x = stretch(image) if options.stretch else to_float(image)
            if options.tile:
                probability = predict_tiles(net, x, options.tile)
            else:
                probability = predict(net, x[None, None])[0]
            found = find_detections(probability, options.threshold)
            outcome.frames.append(Frame(file.name, shape[1], shape[0], found))
            if image.dtype == np.uint16 and not options.stretch:
                dark += int(image.max() < FOURTEEN_BITS)
            writing.append(pool.submit(
                _save, folder, model_name, name, image, probability, found, options.overlays))
            if len(writing) > workers:
                writing.popleft().result()
        for each in writing:
            each.result()
    return dark


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[Path | Page], ahead: int
) -> Iterator[tuple[Path | Page, Future]]:
    """Each file and its image to come, read while those before it are being predicted."""
    waiting: deque[tuple[Path | Page, Future]] = deque()
    for file in files:
        waiting.append((file, pool.submit(read_frame, file)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _save(
    folder: Path,
    model_name: str,
    name: str,
    image: np.ndarray,
    probability: np.ndarray,
    found: Sequence[Detection],
    with_overlay: bool,
) -> None:
    save_prediction(probability, folder, model_name, name)
    if with_overlay:
        with atomic_path(places.overlay_folder(folder, model_name) / f"{name}.png") as temporary:
            draw_overlay(image, found).save(temporary)

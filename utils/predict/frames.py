"""Predicts a user's own images as a stream of frames, and writes the results of each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from evaluation import THRESHOLD
from model import MODEL_NAMES
from utils import runtime
from utils.data.ahead import read_ahead
from utils.data.images import stretch, to_float
from utils.data.sources import ImageSource, InputFrame
from utils.data.video import ClipSource, clip_writer
from utils.datasets import BATCH_PIXELS
from utils.errors import UserError, listed
from utils.files import atomic_path
from utils.paths import PredictionPaths
from utils.predict.detections import Frame, find_detections, input_of, save_coco, save_detections
from utils.predict.maps import load_model, predict, predict_tiles
from utils.predict.overlays import draw_overlay
from utils.predict.prediction_files import save_prediction
from utils.runtime import ranks

FOURTEEN_BITS = 2**14
SHOWN = 20  # unusable images that an error lists
AT_ONCE = {"cpu": 1, "cuda": 8}  # frames of one size in a batch; a CPU gains nothing by more


class FrameOptions(NamedTuple):
    """Settings for the prediction of frames.

    Attributes:
        threshold: a pixel above this probability is detected.
        tile: the side of tiles in pixels; None predicts whole frames.
        stretch: True spreads each frame's grey levels over [0, 1] first.
        overlays: True writes pictures with the detections circled.
        overlay_video: True also writes the overlays of a clip as a clip, in one process.
        coco: True also writes the detections in COCO's format.
        num_workers: threads that read and write.
    """

    threshold: float = THRESHOLD
    tile: int | None = None
    stretch: bool = False
    overlays: bool = True
    overlay_video: bool = False
    coco: bool = False
    num_workers: int = 4


@dataclass
class Outcome:
    """The result of predicting a list of frames.

    Attributes:
        frames: frames that were predicted, with their detections, in the order of the files.
        problems: file name → reason, for files that could not be used.
        seconds: duration of the prediction.
        dark: number of 16-bit images whose values fit into 14 bits.
    """

    frames: list[Frame] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    dark: int = 0

    def describe(self) -> str:
        """One line with images, speed and detections; a second line if 16-bit images are dark."""
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
        """Raises a UserError that names the images that could not be used, if there are any."""
        problems = list(self.problems.values())
        if len(problems) == 1:
            raise UserError(problems[0])
        if problems:
            raise UserError(f"{len(problems)} of {len(self.frames) + len(problems)} images could "
                            "not be used:\n  " + listed(problems, SHOWN, "\n  "))


def refuse_mixing(folder: Path, model_names: Sequence[str], input_path: Path | None) -> None:
    """Checks that results do not come among others.

    Args:
        input_path: None allows results of other inputs in the folder.

    Raises:
        UserError: the folder holds results of a test list, or of another input.
    """
    for model_name in model_names:
        paths = PredictionPaths(folder, model_name)
        if paths.mat.exists() and not (paths.detections(".json").exists()
                                       or paths.overlay.exists()):
            raise UserError(f"{folder}: holds maps of {model_name} without detections and "
                            "overlays, as of a test list; name another folder with --output, or "
                            "remove it")
    for model_name in MODEL_NAMES if input_path else ():
        before = input_of(PredictionPaths(folder, model_name).detections(".json"))
        if before not in (None, str(input_path.resolve())):
            raise UserError(f"{folder}: holds results of another input, {before}; name another "
                            "folder with --output, or remove it")


def predict_frames(
    model_name: str, weights: Path, source: ImageSource | ClipSource, folder: Path,
    options: FrameOptions,
) -> Outcome:
    """Predicts frames, each at its own size, reading ahead and writing behind.

    On a GPU neighbouring images of one size are predicted together.

    Writes below `folder`: `img/<model>/NAME.png`, `mat/<model>/NAME.mat`,
    `overlay/<model>/NAME.png`, and `detections/<model>.csv` and `.json` (and `.coco.json` if
    wanted); of a clip `overlay/<model>.mp4` if wanted. Empty lists of detections are written
    before the first frame, the full ones at the end; one process writes these also when it is
    interrupted.

    Under mpirun every rank predicts a subset of the frames; the first rank writes the detections.

    Args:
        weights: a file of weights.
        source: the frames; the outcome lists those that cannot be read.

    Returns:
        The outcome for all frames, on every rank.

    Raises:
        UserError: the weights do not fit, or the results cannot be written.
    """
    net = load_model(model_name, weights)
    predict(net, np.zeros((1, 1, 64, 64), np.float32))  # compiles, which the speed leaves out
    paths = PredictionPaths(folder, model_name)
    own, began = Outcome(), time.perf_counter()
    this_input = str(source.path.resolve())
    again = input_of(paths.detections(".json")) == this_input

    def save_lists(outcome: Outcome) -> None:
        """Writes the lists; removes what an earlier run of this input wrote and this does not."""
        if again:
            if not options.coco:
                paths.detections(".coco.json").unlink(missing_ok=True)
            if not options.overlay_video:
                paths.overlay_video.unlink(missing_ok=True)
        save_detections(paths.detections(".csv"), paths.detections(".json"), outcome.frames,
                        outcome.problems,
                        {"input": this_input, "model": model_name,
                         "weights": str(weights), **options._asdict()})
        if options.coco:
            save_coco(paths.detections(".coco.json"), outcome.frames,
                      f"{model_name} with {weights}, threshold {options.threshold:g}")

    try:
        try:
            # First without detections: a run that is killed leaves the name of its input.
            _stream(net, source, paths, options, own, lambda: save_lists(Outcome()))
        except BaseException:
            if own.frames and ranks.size() == 1:
                save_lists(own)
            raise
        own.seconds = time.perf_counter() - began
        outcome = _merge(ranks.gather(own), source.order())
        # Without frames nothing is written, but lists of an earlier run are replaced.
        if ranks.is_main() and (outcome.frames or paths.detections(".json").exists()):
            save_lists(outcome)
    except OSError as error:  # not from reading, which names the image and goes on
        raise UserError(f"{folder}: the results cannot be written ({error.strerror or error}); "
                        "make room there, or name another folder with --output") from error
    return outcome


def _merge(parts: Sequence[Outcome], order: Sequence[str]) -> Outcome:
    """One outcome from the outcomes of all ranks, in the order of the file names."""
    place = {name: index for index, name in enumerate(order)}
    frames = [frame for part in parts for frame in part.frames]
    problems = [item for part in parts for item in part.problems.items()]
    return Outcome(
        sorted(frames, key=lambda frame: (place[frame.file], frame.index or 0)),
        dict(sorted(problems, key=lambda item: place[item[0]])),
        max(part.seconds for part in parts), sum(part.dark for part in parts))


def _stream(
    net: runtime.jt.Module, source: ImageSource | ClipSource, paths: PredictionPaths,
    options: FrameOptions, outcome: Outcome, begin: Callable[[], None],
) -> None:
    """Predicts this rank's frames and fills `outcome`, but for its duration.

    Args:
        begin: called by the first rank before it writes its first frame.

    Raises:
        OSError: the results cannot be written.
    """

    def save(frame: InputFrame, image: np.ndarray, probability: np.ndarray, found: list
             ) -> tuple[int | None, Image.Image | None]:
        save_prediction(probability, paths.folder, paths.model_name, frame.name)
        if not options.overlays:
            (paths.overlay / f"{frame.name}.png").unlink(missing_ok=True)  # of an earlier run
        if not (options.overlays or options.overlay_video):
            return frame.index, None
        overlay = draw_overlay(image, found)
        if options.overlays:
            with atomic_path(paths.overlay / f"{frame.name}.png") as temporary:
                overlay.save(temporary)
        return frame.index, overlay

    def finish(written: Future) -> None:
        nonlocal add
        index, overlay = written.result()
        if options.overlay_video:
            add = add or video.enter_context(clip_writer(paths.overlay_video, source.rate))
            add(overlay, index)

    add: Callable[[Image.Image, int], None] | None = None
    shape = None
    workers = max(1, options.num_workers)
    writing: deque[Future] = deque()
    with ExitStack() as video, ThreadPoolExecutor(workers) as pool:
        most = 1 if options.tile else AT_ONCE["cuda" if runtime.on_gpu() else "cpu"]
        own = ranks.subset()
        frames = islice(source, own.start, None, own.step)
        reading = read_ahead(pool, frames, lambda frame: frame.read(options.stretch),
                             max(workers, most))
        bar = tqdm(reading, paths.model_name, source.count and len(range(source.count)[own]),
                   unit="image", disable=None)
        for group in _in_batches(bar, most, outcome.problems):
            images = [image for _, image in group]
            if images[0].shape != shape:  # Jittor would keep the memory for each size
                shape = images[0].shape
                runtime.jt.gc()
            x = [stretch(image) if options.stretch else to_float(image) for image in images]
            maps = ([predict_tiles(net, x[0], options.tile)] if options.tile
                    else predict(net, np.stack(x)[:, None]))
            if not outcome.frames and ranks.is_main():
                begin()
            for (frame, image), probability in zip(group, maps):
                found = find_detections(probability, options.threshold)
                outcome.frames.append(Frame(frame.file, shape[1], shape[0], found,
                                            frame.index, frame.time))
                if image.dtype == np.uint16 and not options.stretch:
                    outcome.dark += int(image.max() < FOURTEEN_BITS)
                writing.append(pool.submit(save, frame, image, probability, found))
                if len(writing) > workers:
                    finish(writing.popleft())
        for each in writing:
            finish(each)


def _in_batches(
    stream: Iterable[tuple[InputFrame, Future]], most: int, problems: dict[str, str],
) -> Iterator[list[tuple[InputFrame, np.ndarray]]]:
    """Yields up to `most` neighbouring frames of one size; fills `problems`."""
    group: list[tuple[InputFrame, np.ndarray]] = []
    for frame, reading in stream:
        try:
            image = reading.result()
        except UserError as error:
            problems[frame.file] = str(error)
            continue
        if group and (image.shape != group[0][1].shape
                      or (len(group) + 1) * image.size > BATCH_PIXELS):
            yield group
            group = []
        group.append((frame, image))
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group

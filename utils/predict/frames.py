"""One's own images: a stream of frames through a network, and what is written of each."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from evaluation import THRESHOLD
from utils import places, runtime
from utils.data.decoding import Page
from utils.data.images import read_frame, stretch, to_float
from utils.errors import UserError
from utils.files import atomic_path
from utils.predict import shards
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
from utils.predict.shards import WHOLE, Outcome, Shard
from utils.runtime import ranks

FOURTEEN_BITS = 2**14


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

    threshold: float = THRESHOLD
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


def predict_frames(
    model_name: str,
    weights: Path,
    files: Sequence[Path | Page],
    folder: Path,
    options: Options,
    shard: Shard = WHOLE,
) -> Outcome:
    """Predicts images one at a time, each at its own size, reading ahead and writing behind.

    Below `folder`: `img/<model>/NAME.png`, `mat/<model>/NAME.mat`, `overlay/<model>/NAME.png`, and
    `detections/<model>.csv` and `.json`, and if wanted `.coco.json`; these also if it is
    interrupted, and of several shards when the last one is done.

    Args:
        weights: a file of weights.
        files: images, or pages of them; one that cannot be read is named in the outcome.
        shard: which of them this process predicts.

    Returns:
        What became of them; of all of them if this is the shard that was done last.

    Raises:
        UserError: the weights do not fit, or the results cannot be written.
    """
    net = load_model(model_name, weights)
    digest = "" if shard == WHOLE else _digest(weights, files)
    predict(net, np.zeros((1, 1, 64, 64), np.float32))  # Jittor compiles, which is not their speed
    run = {"model": model_name, "weights": str(weights), **options._asdict()}
    named = list(zip(result_names(files), files))[shard.turn]
    outcome = Outcome([], {}, 0.0, 0)
    began = time.perf_counter()
    try:
        if shard != WHOLE:
            shards.remove(folder, model_name, shard)
        try:
            dark = _stream(net, model_name, named, folder, options, outcome)
        finally:
            if outcome.frames and shard == WHOLE:
                _save_lists(folder, model_name, outcome, options, run)
        outcome = outcome._replace(seconds=time.perf_counter() - began, dark=dark)
        if shard != WHOLE:
            outcome = _hand_in(folder, model_name, outcome, options, run, digest, shard, files)
    except OSError as error:  # not of reading: that names the image and goes on
        raise UserError(f"{folder}: the results cannot be written ({error}); make room there, or "
                        "name another folder with --output") from error
    return outcome


def _digest(weights: Path, files: Sequence[Path | Page]) -> str:
    """Tells runs apart that have other weights, or images of other names or sizes, at one place."""
    digest = hashlib.sha256(weights.read_bytes())
    for file in files:
        size = (file.path if isinstance(file, Page) else file).stat().st_size
        digest.update(f"{file.name} {size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _hand_in(folder, model_name, outcome, options, run, digest, shard, files):
    """Saves what a shard has found; the outcome of all of them if it was the last."""
    order = [file.name for file in files]
    shards.save(folder, model_name, shard, outcome, {**run, "num_workers": None, "digest": digest})
    ranks.gather(None)  # until all ranks have come so far
    merged = shards.merge(folder, model_name, shard, order) if ranks.first() else None
    if merged:
        _save_lists(folder, model_name, merged, options, run)
        shards.remove(folder, model_name, *shards.all_of(shard))
    problems = ranks.gather(merged.problems if merged else outcome.problems)[0]
    return merged or outcome._replace(problems=problems)


def _save_lists(folder, model_name, outcome, options, run):
    save_detections(*places.detections(folder, model_name), outcome.frames, outcome.problems, run)
    if options.coco:
        save_coco(places.coco(folder, model_name), outcome.frames,
                  f"{model_name} with {run['weights']}, threshold {options.threshold:g}")


def _stream(
    net: runtime.jt.Module,
    model_name: str,
    named: Sequence[tuple[str, Path | Page]],
    folder: Path,
    options: Options,
    outcome: Outcome,
) -> int:
    """Fills `outcome` and returns its `dark`; OSError where results cannot be written."""
    dark, shape = 0, None
    workers = max(1, options.num_workers)
    writing: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        stream = _read_ahead(pool, named, workers, options.stretch)
        for name, file, reading in tqdm(
            stream, model_name, len(named), unit="image", disable=None
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
    pool: ThreadPoolExecutor, named: Sequence[tuple[str, Path | Page]], ahead: int,
    any_range: bool,
) -> Iterator[tuple[str, Path | Page, Future]]:
    """Each name and file, and its image to come, read while those before it are predicted."""
    waiting: deque[tuple[str, Path | Page, Future]] = deque()
    for name, file in named:
        waiting.append((name, file, pool.submit(read_frame, file, any_range)))
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

"""What became of a list of images, and how several processes share one out and put it together.

Each process writes what it has found to a file, and whoever finds the files of all of them merges
them. So they may run at any time and on any host: a common folder is all they need.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils import places
from utils.errors import UserError, listed
from utils.files import write_text
from utils.predict.detections import Detection, Frame
from utils.runtime import ranks

SHOWN = 20  # images that could not be used


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


class Shard(NamedTuple):
    """Number so and so, from 1 on, of so many processes that take turns in a list of images."""

    number: int
    total: int

    @property
    def turn(self) -> slice:
        """Of the list, what is this one's."""
        return slice(self.number - 1, None, self.total)


WHOLE = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """An argparse type: "2/8"."""
    number, _, total = text.partition("/")
    shard = Shard(int(number), int(total))
    if not 1 <= shard.number <= shard.total:
        raise argparse.ArgumentTypeError(f"{text}: of eight processes say 1/8, 2/8 ... 8/8")
    return shard


def of_rank() -> Shard:
    """The one of this rank; `WHOLE` without mpirun."""
    return Shard(ranks.rank() + 1, ranks.size())


def all_of(shard: Shard) -> list[Shard]:
    """This one and those beside it."""
    return [Shard(number, shard.total) for number in range(1, shard.total + 1)]


def save(
    folder: Path, model_name: str, shard: Shard, outcome: Outcome, run: Mapping[str, Any]
) -> None:
    """Writes the outcome of a shard; `run` tells it from those of other runs."""
    content = json.dumps({"run": run, **outcome._asdict()})
    write_text(places.shard(folder, model_name, *shard), content)


def remove(folder: Path, model_name: str, *shards: Shard) -> None:
    """Removes what these have saved."""
    for shard in shards:
        places.shard(folder, model_name, *shard).unlink(missing_ok=True)


def merge(folder: Path, model_name: str, shard: Shard, order: Sequence[str]) -> Outcome | None:
    """The outcome of all shards, once all are there; else says which are not.

    Args:
        shard: one of them, which has been saved.
        order: the names of all images.
    """
    saved = {other.number: _read(places.shard(folder, model_name, *other))
             for other in all_of(shard)}
    own = saved[shard.number]
    if own is None:
        print(f"shard {shard.number} of {shard.total} is done; another one has merged them")
        return None
    missing = [number for number, part in saved.items() if not part or part["run"] != own["run"]]
    if missing:
        print(f"shard {shard.number} of {shard.total} is done; the last one to be done merges "
              f"them, still missing: {listed(list(map(str, missing)), SHOWN)}")
        return None
    place = {name: index for index, name in enumerate(order)}
    frames = [Frame(*frame[:3], [Detection(*found) for found in frame[3]])
              for part in saved.values() for frame in part["frames"]]
    problems = [item for part in saved.values() for item in part["problems"].items()]
    return Outcome(
        sorted(frames, key=lambda frame: place[frame.file]),
        dict(sorted(problems, key=lambda item: place[item[0]])),
        max(part["seconds"] for part in saved.values()),
        sum(part["dark"] for part in saved.values()))


def _read(file):
    """What a shard has saved; None if it has not, or if it was merged meanwhile."""
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None

"""What the trials have in common: what is counted, and how a trial is described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SHOWN = 5  # losses that are printed in full


@dataclass
class Tally:
    """What came of the tries of a trial.

    Attributes:
        right: ended as if nothing had happened: equal results, numbers as they were written.
        refused: ended with one line that names the file or folder.
        other: read as other numbers than were written, in a format without a checksum.
        lost: all else, each told in a line; what the project promises never to happen.
        note: what was measured beside.
    """

    right: int = 0
    refused: int = 0
    other: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def tries(self) -> int:
        """How many there were."""
        return self.right + self.refused + self.other + len(self.lost)

    def add(self, verdict: str, what: str = "") -> None:
        """Counts a try: "right", "refused" or "other"; any other verdict is a loss of `what`."""
        if verdict in ("right", "refused", "other"):
            setattr(self, verdict, getattr(self, verdict) + 1)
        else:
            self.lost.append(f"{what}: {verdict}")

    def __iadd__(self, more: Tally) -> Tally:
        for name in ("right", "refused", "other", "lost"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.note = more.note or self.note
        return self


class Trial(NamedTuple):
    """Something that is tried many times.

    Attributes:
        subject: the kind of fault.
        name: what is tried.
        run: of a folder of its own, a seed and how many tries; the same seed tries the same.
        short, usual, long: how many tries there are in each form; 0: none.
    """

    subject: str
    name: str
    run: Callable[[Path, int, int], Tally]
    short: int
    usual: int
    long: int

    @property
    def title(self) -> str:
        """Subject and name, which --only looks at."""
        return f"{self.subject}: {self.name}"


def one_line_about(message: str, *names: object) -> bool:
    """Whether a message is one printable line with one of these names in it."""
    return message.isprintable() and any(str(name) in message for name in names)

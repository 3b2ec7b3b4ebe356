"""Writes the training log from a run's history, and reads logs of several programs.

The first line names network, dataset and recipe. An epoch has five lines, in the format of the
official PyTorch code, or one line if it was not evaluated:

    Aug  2 04:31:35 Epoch---1, total_loss---0.998524,
    pixAcc 0.971711, mIoU: 0.018736
    Pd: 0.795767, Fa: 0.03753779, fscore: 0.030127
    Best mIoU: 0.018736,when Epoch=1, Best fscore: 0.030127,when Epoch=1
    Best Pd: 0.795767,when Epoch=1, Best Fa: 0.03753779,when Epoch=1
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import fmean

from utils.errors import UserError
from utils.files import is_utf16, write_text

METRICS = ("pixAcc", "mIoU", "Pd", "Fa", "fscore")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A number counts only if a character ends it: a killed run may leave half a number.
_NUMBER = r"(\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf)(?=[,;)\]\s*/]|$)"
_EPOCH = re.compile(
    r"(?:([A-Z][a-z]{2} +\d{1,2} +\d\d:\d\d:\d\d)\W*)?"
    r"\b(?i:epoch)[^\w\n]*(\d{1,9})(?:/\d+)?"
    r"[^\w\n]+(?i:(?:total|train)?[_ ]?loss[^\w\n]*" + _NUMBER + ")"
)
# Other projects' lines for an epoch, and the number of their first epoch. The groups are named
# after the fields of EpochRecord.
_PEERS = (
    # DNANet; the mIoU follows.
    (r"(?P<time>\S+ \S+) - (?P<epoch>\d+):\s+- train_loss: (?P<loss>[\d.]+):", 0),
    # DRPCA-Net, a line per ten steps; the mean of their losses is the epoch's loss.
    (r"(?P<time>\S+ \S+),\d+ .*Epoch-Iter: \[(?P<epoch>\d+)/.* Loss: (?P<loss>[\d.]+)=", 1),
    # MSHNet, only after epochs with the best IoU so far; Fa in millionths, no loss.
    (r"(?P<time>\S+) - (?P<epoch>\d+)\s+- IoU (?P<mIoU>[\d.]+)\s+- PD (?P<Pd>[\d.]+)\s+"
     r"- FA (?P<Fa>[\d.]+)$", 0),
)
_METRIC = re.compile(r"\b(pixAcc|mIoU|Pd|Fa|f[-_]?score)\b[\s:=]*" + _NUMBER, re.IGNORECASE)
# The end of a file without a final newline, if its number has all decimals of the format.
_WHOLE_END = re.compile(
    r"(?i:loss|pixAcc|mIoU|Pd|fscore)[\s:=-]*\d+\.\d{6}$|Fa[\s:=]*\d+\.\d{8}$|(?i:nan|inf)$"
)
_FIELDS = {name.lower(): name for name in METRICS}


@dataclass
class EpochRecord:
    """One epoch of a log.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss; may be NaN.
        time: when training ended: `Aug  2 04:31:35` in a log of ours; "" if unknown.
        pixAcc, mIoU, Pd, Fa, fscore: scores on the test list; None if it was not evaluated.
        strict: strict scores by name; not in the log, whose format other programs read.
    """

    epoch: int
    loss: float
    time: str = ""
    pixAcc: float | None = None
    mIoU: float | None = None
    Pd: float | None = None
    Fa: float | None = None
    fscore: float | None = None
    strict: dict[str, float] | None = None

    @property
    def evaluated(self) -> bool:
        """True if all five scores are known."""
        return all(getattr(self, name) is not None for name in METRICS)


def log_time(seconds: float | None = None) -> str:
    """Local time as `Aug  2 04:31:35`, in English in any locale; the present by default."""
    return time.asctime(time.localtime(seconds))[4:19]  # knows no locale


def best_epochs(records: Iterable[EpochRecord]) -> dict[str, EpochRecord]:
    """Metric → record with its best value; empty if no epoch was evaluated.

    Best is the lowest Fa and the highest value of the other metrics. Of equal values the earlier
    epoch counts. NaN is worse than any number.
    """
    scored = [record for record in records if record.evaluated]

    def place(name: str, record: EpochRecord) -> tuple[bool, float, int]:
        value = getattr(record, name)
        if math.isnan(value):
            return True, 0, record.epoch
        return False, value if name == "Fa" else -value, record.epoch

    return {name: min(scored, key=partial(place, name)) for name in METRICS} if scored else {}


def render_log(records: Iterable[EpochRecord], head: str = "") -> str:
    """The text of a log; its `Best` lines say what was best up to that epoch.

    Args:
        records: the epochs, in order.
        head: the first line.
    """
    lines = [head] if head else []
    best: dict[str, EpochRecord] = {}
    for record in records:
        lines.append(f"{record.time} Epoch---{record.epoch}, total_loss---{record.loss:.6f},"
                     .lstrip())
        if not record.evaluated:
            continue
        best = best_epochs([*best.values(), record])
        lines += [
            f"pixAcc {record.pixAcc:.6f}, mIoU: {record.mIoU:.6f}",
            f"Pd: {record.Pd:.6f}, Fa: {record.Fa:.8f}, fscore: {record.fscore:.6f}",
            f"Best mIoU: {best['mIoU'].mIoU:.6f},when Epoch={best['mIoU'].epoch}, "
            f"Best fscore: {best['fscore'].fscore:.6f},when Epoch={best['fscore'].epoch}",
            f"Best Pd: {best['Pd'].Pd:.6f},when Epoch={best['Pd'].epoch}, "
            f"Best Fa: {best['Fa'].Fa:.8f},when Epoch={best['Fa'].epoch}",
        ]
    return "".join(line + "\n" for line in lines)


def write_log(path: str | Path, records: Iterable[EpochRecord], head: str = "") -> None:
    """Replaces the whole log at once: a reader never sees a part of it."""
    write_text(path, render_log(records, head), durable=True)


def read_log(path: str | Path) -> list[EpochRecord]:
    """Reads a log of ours, of the official PyTorch code or a similar one, or of `_PEERS`.

    Other lines are skipped, and scores may be missing. An incomplete value at the end of the file
    is dropped. If an epoch appears twice (a resumed run), the later one counts. If the first epoch
    appears again, a new run was added to the log, and only that run counts.

    Returns:
        The records, sorted by epoch.

    Raises:
        UserError: the file cannot be read, or has no epoch.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            encoding = "utf-16" if is_utf16(file.read(2)) else "utf-8"
        text = path.read_text(encoding, errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    lines = text.split("\n")
    if not _WHOLE_END.search(lines[-1]):
        lines[-1] = lines[-1].rstrip("0123456789.")

    records: dict[int, EpochRecord] = {}

    def add(record: EpochRecord) -> None:
        if record.epoch <= min(records, default=0):
            records.clear()
        records[record.epoch] = record

    record, losses = None, []
    for line in lines:
        line, *best = re.split(r"\bbest\b", line, maxsplit=1, flags=re.IGNORECASE)
        if best and any(int(epoch) <= max(records, default=0)
                        for _, epoch, _ in _EPOCH.findall(line)):
            continue  # of an epoch that is known already
        for stamp, epoch, loss in _EPOCH.findall(line):
            record = EpochRecord(int(epoch), float(loss), stamp)
            add(record)
        found, first = _peer_line(line)
        if found:
            epoch = int(found["epoch"]) + 1 - first
            if record is None or record.epoch != epoch:
                record, losses = EpochRecord(epoch, math.nan, found["time"]), []
                add(record)
            losses.append(float(found.get("loss", math.nan)))
            record.loss = fmean(losses)
        if record is not None:
            for name, value in _METRIC.findall(line):
                setattr(record, _FIELDS[re.sub("[-_]", "", name.lower())], float(value))
        for name in _FIELDS.values() & found.keys():
            setattr(record, name, float(found[name]) * (1e-6 if name == "Fa" else 1))
    if not records:
        raise UserError(
            f"{path}: no epoch in this log; name a training log, with lines such as"
            " `Aug  2 04:31:35 Epoch---1, total_loss---0.998524,`"
        )
    return sorted(records.values(), key=lambda record: record.epoch)


def _peer_line(line):
    """The groups of a line that matches a row of `_PEERS`, and the row's first epoch."""
    for form, first in _PEERS:
        found = re.match(form, line)
        if found:
            return found.groupdict(), first
    return {}, 0


def parse_log_name(path: str | Path, model_names: Sequence[str]) -> tuple[str, str] | None:
    """Dataset (may be "") and model of a log by its name, `<dataset>_<model>_<timestamp>.txt`.

    Both parts may contain `_` and `-`, so only the known model names can divide the file name.
    None if the name has none of them.
    """
    for model in model_names:
        match = re.fullmatch(rf"(?:(.+)_)?{re.escape(model)}(?:[_.-].*)?", Path(path).stem)
        if match:
            return match[1] or "", model
    return None


def log_started(path: str | Path) -> float:
    """The time in seconds at which a log began, to sort logs.

    Taken from the timestamp in the name (`20240802_043135`, `2024-08-02_04-31-35` or the official
    `Fri_Aug__2_04_31_35_2024`), else from the file's modification time.
    """
    stem = Path(path).stem
    official = re.search(r"([A-Z][a-z]{2})_+(\d{1,2})_(\d\d)_(\d\d)_(\d\d)_(\d{4})$", stem)
    digits = re.search(r"(\d{4})\D?(\d\d)\D?(\d\d)\D?(\d\d)\D?(\d\d)\D?(\d\d)$", stem)
    with suppress(ValueError, OverflowError):  # digits that are not a date
        if official:
            month, day, *clock, year = official.groups()
            digits = [year, MONTHS.index(month) + 1, day, *clock]
        elif digits:
            digits = digits.groups()
        if digits:
            return datetime(*map(int, digits)).timestamp()
    return Path(path).stat().st_mtime


def join_logs(histories: Iterable[Sequence[EpochRecord]]) -> tuple[list[EpochRecord], int]:
    """Joins the logs of one model, oldest first, into the history of its newest run.

    A log that begins at a later epoch than the log before continues it, and replaces epochs of
    equal number. A log that begins at the same or an earlier epoch is a new run.

    Returns:
        The records of the newest run, sorted by epoch, and the number of older runs.
    """
    run: dict[int, EpochRecord] = {}
    left_out = 0
    for records in histories:
        if run and records[0].epoch <= min(run):
            run, left_out = {}, left_out + 1
        run.update({record.epoch: record for record in records})
    return [run[epoch] for epoch in sorted(run)], left_out

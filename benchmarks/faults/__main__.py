"""Tries what may go wrong, many times, and counts what is lost (Markdown).

    python -m benchmarks.faults                       # some minutes
    python -m benchmarks.faults --long                # 2,000 damaged files of each kind, 200 kills
    python -m benchmarks.faults --hours 8             # the long form, again and again
    python -m benchmarks.faults --only "bad input: last.npz" --seed 7     # one of them again

Real scripts run on small made-up data, in a folder that is removed at the end. Each row is a trial:
how often it was tried, how many tries ended as if nothing had happened, how many were refused by
one line that names the file, how many damaged files were read as other numbers because their format
has no checksum, and what was lost. The exit status is 1 if anything was.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.trial import SHOWN, Tally, Trial
from benchmarks.table import print_head, print_row
from utils import cli

SUBJECTS = ("bad_input", "machine_loss", "not_finite", "kills", "disk", "two_at_once", "memory")
FORMS = ("short", "usual", "long")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trials; 1 if something was lost."""
    args = parse(argv)
    chosen = [trial for trial in all_trials() if args.only in trial.title]
    if not chosen:
        raise cli.UserError(f"--only {args.only}: no trial has this in its name; they are "
                            f"{', '.join(trial.title for trial in all_trials())}")
    seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
    form = "long" if args.hours else args.form
    end = time.monotonic() + 3600 * (args.hours or 0)
    lost = 0
    while True:
        print(f"seed {seed}, {form} form\n", flush=True)
        print_head("trial", "tries", "as if nothing had happened", "refused by one line",
                   "read as other numbers", "lost", "")
        for trial in chosen:
            lost += len(run(trial, seed, form).lost)
        seed += 1
        if time.monotonic() >= end:
            break
    print(f"\nlost: {lost}")
    return int(lost > 0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    parser.set_defaults(form="usual")
    forms = parser.add_mutually_exclusive_group()
    for form in ("short", "long"):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form,
                           help=f"the {form} form")
    forms.add_argument("--hours", type=cli.positive(float), metavar="H",
                       help="repeat the long form, each time with the next seed, for so long")
    parser.add_argument("--only", default="", metavar="TEXT", help="trials whose name contains it")
    parser.add_argument("--seed", type=int, metavar="N", help="as printed by an earlier run")
    return parser.parse_args(argv)


def all_trials() -> list[Trial]:
    """Of all subjects."""
    modules = (importlib.import_module(f"benchmarks.faults.{name}") for name in SUBJECTS)
    return [trial for module in modules for trial in module.trials()]


def run(trial: Trial, seed: int, form: str) -> Tally:
    """Runs a trial in a folder of its own and prints its row, and what was lost below it."""
    tries = getattr(trial, form)
    if not tries:
        return Tally()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        tally = trial.run(Path(folder), seed, tries)
    print_row(trial.title, f"{tally.tries:,}", f"{tally.right:,}", f"{tally.refused:,}",
              f"{tally.other:,}", f"{len(tally.lost):,}", tally.note)
    for line in tally.lost[:SHOWN]:
        print(f"LOST {line}", file=sys.stderr, flush=True)
    return tally


if __name__ == "__main__":
    cli.run(main)

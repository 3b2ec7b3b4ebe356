"""Ours against PyTorch, in processes of their own that take turns (A B A B ...): medians, ratios.

    python -m benchmarks.against_pytorch                                steps, memory, predictions
    python -m benchmarks.against_pytorch --measures step score epoch    the real test list, an epoch
    python -m benchmarks.against_pytorch --model_name L2SKNet_UNet --steps 9 --csv speed.csv

The other side is the official formulation in plain PyTorch (alignment/twin.py), as its users run
it: float32, eager, default settings, all cores. Both have the same weights (the trained ones where
there are some) and the same images, and each is warmed up for each measure until it is steady. A
process that is not measured waits for a pipe; how much it computed meanwhile is printed.

    step        a training step: forward, SoftIoU, backward, Adam, on synthetic images (as are
                those of latency and throughput); then the peak memory of the process (on a GPU: of
                the framework's pool)
    latency     one image, from NumPy to probabilities in NumPy
    throughput  the same for a batch
    score       predicting the test list and scoring it, ROC included, from images in memory. Ours:
                batches, and evaluation.Evaluator, which computes its strict scores besides.
                PyTorch: image by image as the official code, benchmarks/official_scoring.py
    epoch       all batches of the training list, then predicting and scoring the test list; PyTorch
                without the ROC, which the official training does not compute

The ratio is PyTorch/ours in time and memory, ours/PyTorch in images a second: above 1 is for us.

    python -m benchmarks.against_pytorch --device cuda --ways           on your own GPU
    python -m benchmarks.against_pytorch --ways                         every way to run PyTorch
    python -m benchmarks.against_pytorch --ways eager bf16              a few

With --ways each way is a process, ours in float32 and in bf16 two more, and in a turn each is
measured once: for step, latency and throughput. The last rows hold ours to the best way of the same
precision. The ways of the name benchmark set torch.backends.cudnn.benchmark and run on a GPU only;
there "float32" is what --precision says, by default TF32 in convolutions, on both sides. The first
lines name the card. torch.compile takes minutes for each of its ways and measures, and the peak
memory of such a way has the compiler's in it. A side that cannot run is left out, and a line says
why.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.util
import multiprocessing
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks.sides import COMPARED, MEASURES, MEMORY, WAYS, Measure, Ours, PyTorch, Side
from utils import cli
from utils.checkpoint.weights import find_weights
from utils.errors import UserError
from utils.files import atomic_path
from utils.recipe import Recipe
from utils.report.tables import print_head, print_row


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it to the file of --csv."""
    parser = cli.make_parser(__doc__)
    parser.set_defaults(seed=Recipe.seed)
    cli.add_batch_size(parser)
    cli.add_recipe(parser, "lr", lr=5e-4)
    parser.add_argument("--size", type=cli.positive(int), default=256, help="default 256")
    parser.add_argument("--measures", nargs="+", choices=MEASURES,
                        default=["step", "latency", "throughput"],
                        help="default step latency throughput; score and epoch need the dataset")
    parser.add_argument("--steps", type=cli.positive(int), default=5,
                        help="turns of each side; default 5")
    parser.add_argument("--passes", type=cli.positive(int), default=1,
                        help="turns of each side for score and epoch; default 1")
    parser.add_argument("--ways", nargs="*", choices=WAYS, metavar="WAY",
                        help=f"of PyTorch: {', '.join(WAYS)}; without values all")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="medians and all samples")
    args = parser.parse_args(argv)
    _check(args)
    entrants = choose_entrants(args)
    header, show = (Row.HEADER, _show_pair) if args.ways is None else (WAY_HEADER, _show_ways)
    records, idle, notes = [], [], []
    for number, name in enumerate(args.model_names):
        weights = find_weights(args.output_dir, args.dataset_names[0], name)
        with Round(name, args, weights, entrants) as turns:
            if number == 0:
                _print_head(args, turns)
            records += show(turns, entrants)
            idle += turns.idle
            notes += turns.notes
        if args.csv:
            _write_csv(args.csv, header, records)
    print(f"\nA waiting process used at most {100 * max(idle, default=0):.1f} % of a core.")
    print(*notes, sep="\n")


def _check(args):
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r requirements-align.txt")
    if args.size < 32:
        raise UserError(f"--size {args.size}: must be at least 32, for the synthetic images")
    if args.batch_size < 2:
        raise UserError(f"--batch_size {args.batch_size}: must be at least 2, for batch norm")
    if args.ways is None:
        return
    if any(MEASURES[key].whole_set for key in args.measures):
        raise UserError("--ways: the measures are step, latency and throughput")
    if args.precision == "bf16":
        raise UserError("--ways measures bf16 beside float32: leave --precision bf16 out")


class Entrant(NamedTuple):
    """Who takes part in a round."""

    ours: bool
    precision: str  # "float32" or "bf16": those of the same one are compared
    side: Callable[..., Side]  # of the model's name, the flags and the device
    gpu_only: bool = False


def choose_entrants(args: Namespace) -> dict[str, Entrant]:
    """All that take part, by title, in the order of a turn: PyTorch and ours, or all of --ways."""
    ours = Entrant(True, "float32", functools.partial(Ours, precision=args.precision))
    if args.ways is None:
        return {"PyTorch": _pytorch("eager"), "ours": ours}
    bf16 = Entrant(True, "bf16", functools.partial(Ours, precision="bf16"))
    return {**{way: _pytorch(way) for way in WAYS if way in (args.ways or WAYS)},
            "ours, float32": ours, "ours, bf16": bf16}


def _pytorch(way):
    found = WAYS[way]
    return Entrant(False, found.precision, functools.partial(PyTorch, way=found), found.benchmark)


def _print_head(args, turns):
    print(*turns.descriptions, sep="\n")
    print(f"Batch {args.batch_size}, {args.size}x{args.size}; medians of {args.steps} turns, of "
          f"{args.passes} for whole sets\n")
    if args.ways is None:
        print_head("model", "measure", "PyTorch", "ours", "ratio")


def _write_csv(path, header, records):
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(records)


# ---------------------------------------------------------------------------- two sides


def _show_pair(turns, _):
    """Prints a row for each measure; returns the records of the CSV file."""
    records = []
    for measure, samples in turns.results():
        row = Row(turns.name, measure, samples["PyTorch"], samples["ours"])
        print_row(*row.cells())
        records.append(row.record())
    return records


class Row(NamedTuple):
    """A measure of a model; samples in the measure's unit."""

    HEADER = ("model", "measure", "unit", "pytorch", "ours", "ratio",
              "pytorch_samples", "ours_samples")

    model: str
    measure: Measure
    pytorch: list[float]
    ours: list[float]

    def medians(self) -> tuple[float, float, float]:
        """PyTorch's, ours, and the ratio that is above 1 where ours is better."""
        pytorch, ours = map(statistics.median, (self.pytorch, self.ours))
        return pytorch, ours, self.measure.ratio(pytorch, ours)

    def cells(self) -> tuple[str, ...]:
        """As text, for the table."""
        *medians, ratio = self.medians()
        return (self.model, self.measure.title,
                *(_with_unit(self.measure, value) for value in medians), f"{ratio:.2f}")

    def record(self) -> tuple[str, ...]:
        """For the CSV file."""
        medians = (f"{value:.6g}" for value in self.medians())
        return (self.model, self.measure.title, self.measure.unit, *medians,
                _joined(self.pytorch), _joined(self.ours))


# ---------------------------------------------------------------------------- many ways

WAY_HEADER = ("model", "measure", "unit", "way", "precision", "median", "samples")
NOTHING = "–"


def _show_ways(turns, entrants):
    """Prints the model's table; returns the records of the CSV file."""
    results = list(turns.results())
    print_head(turns.name, *(measure.title for measure, _ in results))
    medians = [(measure, {title: statistics.median(values) for title, values in samples.items()})
               for measure, samples in results]
    for title in entrants:
        if any(title in values for _, values in medians):
            print_row(title, *(_with_unit(measure, values[title]) if title in values else NOTHING
                               for measure, values in medians))
    for precision in dict.fromkeys(entrant.precision for entrant in entrants.values()):
        found = [compare(measure, values, entrants, precision) for measure, values in medians]
        if any(found):
            print_row(f"ours to the best, {precision}",
                      *(f"{pair[1]:.2f} ({pair[0]})" if pair else NOTHING for pair in found))
    print(flush=True)
    return [(turns.name, measure.title, measure.unit, title, entrants[title].precision,
             f"{statistics.median(values):.6g}", _joined(values))
            for measure, samples in results for title, values in samples.items()]


def compare(
    measure: Measure, medians: Mapping[str, float], entrants: Mapping[str, Entrant], precision: str
) -> tuple[str, float] | None:
    """Ours against the best way of PyTorch at the same precision.

    Args:
        medians: of those entrants that were measured.

    Returns:
        The best way's title and the ratio, above 1 where ours is better; None if there is none of
        ours or none of PyTorch's.
    """
    ways, ours = ({title: value for title, value in medians.items()
                   if entrants[title].precision == precision and entrants[title].ours == whose}
                  for whose in (False, True))
    if not (ways and ours):
        return None
    (value,) = ours.values()
    best = min(ways, key=lambda title: measure.ratio(ways[title], value))
    return best, measure.ratio(ways[best], value)


def _joined(samples):
    return " ".join(f"{value:.6g}" for value in samples)


def _with_unit(measure, value):
    return f"{_digits(value)} {measure.unit}"


def _digits(value):
    """Three significant digits, or all of an integer part."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


class Round:
    """The processes of a model, which take turns; a context manager, at whose end they are gone.

    Args:
        weights: the file that all take; None: the initial ones of ours.
        entrants: by title. The first of ours is started first, and the others go to its device.
            With --ways any other may fail: it is left out from then on.
    """

    def __init__(self, name: str, args: Namespace, weights: Path | None,
                 entrants: Mapping[str, Entrant]):
        self.name, self.args, self.weights, self.entrants = name, args, weights, entrants
        self.leader = next(title for title, entrant in entrants.items() if entrant.ours)
        self.idle = []  # shares of a core, while waiting
        self.notes = [f"{name}: {weights or 'initial weights'}"]

    def __enter__(self) -> Round:
        self.processes, self.pipes, self.descriptions, self.used = {}, {}, [], {}
        device = self._start(self.leader, self.args.device)
        self.initial = self._ask(self.leader, "weights", self.weights)
        for title in self.entrants:
            if title != self.leader and not (device == "cpu" and self.entrants[title].gpu_only):
                with self._or_without(title):
                    self._start(title, device)
        return self

    def _start(self, title, device):
        spawn = multiprocessing.get_context("spawn")
        self.pipes[title], other_end = spawn.Pipe()
        self.processes[title] = spawn.Process(
            target=_serve, daemon=True,
            args=(self.entrants[title].side, self.name, self.args, device, other_end))
        self.processes[title].start()
        other_end.close()
        description, device = self._receive(self.pipes[title], title)
        self.descriptions.append(description)
        return device

    def __exit__(self, *_: object) -> None:
        for title in list(self.pipes):
            self._end(title)

    def _end(self, title):
        self.pipes.pop(title).close()
        self.processes.pop(title).join()

    @contextlib.contextmanager
    def _or_without(self, title):
        """Leaves a side out that fails; without --ways there are two, and both are needed."""
        try:
            yield
        except UserError as error:
            if self.args.ways is None:
                raise
            self._end(title)
            self.notes.append(f"{self.name}: {title} is left out: {error}")

    @staticmethod
    def _receive(pipe, title):
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise UserError(f"{title} has died; what it printed is above, and nothing is there if "
                            "the system killed it, for want of memory") from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _ask(self, title, *request):
        """Has one side do something; notes what it used of a core since it was last asked."""
        with contextlib.suppress(BrokenPipeError):  # if it has died, no answer will come
            self.pipes[title].send(request)
        answer, before, after = self._receive(self.pipes[title], title)
        if title in self.used:
            used, since = (now - then for now, then in zip(before, self.used[title]))
            if since > 0.1:
                self.idle.append(used / since)
        self.used[title] = after
        return answer

    def _ask_all(self, *request):
        """The answers by title, one side after the other, in the order of the entrants."""
        answers = {}
        for title in filter(self.pipes.__contains__, self.entrants):
            with self._or_without(title):
                answers[title] = self._ask(title, *request)
        return answers

    def results(self) -> Iterator[tuple[Measure, dict[str, list[float]]]]:
        """Each measure, as soon as it is taken, and by title the samples in its unit."""
        for key, measure in MEASURES.items():  # in this order: the peak is that of the steps
            if key not in self.args.measures:
                continue
            self._ask_all("prepare", key, self.initial)
            count = self.args.passes if measure.whole_set else self.args.steps
            turns = [self._ask_all("turn", key, measure.calls)
                     for _ in tqdm(range(count), f"{self.name} {key}", leave=False, disable=None)]
            convert = {"s": lambda s: s, "ms": lambda s: 1000 * s,
                       "images/s": lambda s: self.args.batch_size / s}[measure.unit]
            yield measure, {title: [convert(turn[title]) for turn in turns]
                            for title in turns[-1]}  # without those who have died
            if key == "score":
                pytorch, ours = self._ask_all("last_scores").values()
                apart = max(abs(ours[score] - pytorch[score]) for score in COMPARED)
                self.notes.append(f"{self.name}: the scores of both are {apart:.1e} apart at most")
            if key == "step":
                peaks = self._ask_all("peak")
                if None not in peaks.values():
                    yield MEMORY, {title: [peak / 1e6] for title, peak in peaks.items()}
                self.notes += [f"{self.name}: {title}: {note}" for title, note
                               in self._ask_all("memory_note").items() if note]


def _serve(side, name, args, device, pipe):
    """The life of a process: answers with the result, and its clocks before and after."""
    try:
        worker = side(name, args, device)
        pipe.send((worker.description, worker.device))
        while True:
            method, *arguments = pipe.recv()
            before = time.process_time(), time.perf_counter()
            result = getattr(worker, method)(*arguments)
            pipe.send((result, before, (time.process_time(), time.perf_counter())))
    except (EOFError, KeyboardInterrupt):
        pass  # all is done, or is to end
    except UserError as error:
        pipe.send(error)


if __name__ == "__main__":
    cli.run(main)

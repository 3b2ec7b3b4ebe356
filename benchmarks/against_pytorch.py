"""Measures ours against PyTorch, in processes that take turns (A B A B ...): medians, ratios.

    python -m benchmarks.against_pytorch                                PyTorch eager, float32
    python -m benchmarks.against_pytorch --ways                         every way to run PyTorch
    python -m benchmarks.against_pytorch --ways eager bf16              a few
    python -m benchmarks.against_pytorch --device cuda --ways           on your own GPU
    python -m benchmarks.against_pytorch --model_name L2SKNet_UNet --steps 9 --csv speed.csv

PyTorch runs the official formulation (alignment/twin.py) on all cores. All sides have equal weights
(trained weights if there are any) and equal images. Before each measure every side runs until its
times are steady. While one process is measured the others wait for a pipe; a line tells how much
they computed meanwhile.

    step        a training step: forward, SoftIoU, backward, Adam, on synthetic images; then the
                peak memory of the process (on a GPU: of the framework's pool)
    latency     one image, from NumPy to probabilities in NumPy
    throughput  the same for a batch

The last rows compare ours with the best way of equal precision: PyTorch/ours in time and memory,
ours/PyTorch in images per second. Above 1 ours is better. With --ways ours runs in float32 and in
bf16. The ways `benchmark...` set torch.backends.cudnn.benchmark and run on a GPU only. On a GPU,
"float32" means what --precision says, on both sides: by default TF32 in convolutions. The first
lines name the card. torch.compile takes minutes per way and measure, and its memory is a part of
the peak memory. A side that cannot run is left out, and a line says why.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

from tqdm import tqdm

from benchmarks.sides import (
    MEASURES,
    MEMORY,
    RUNTIMES,
    WAYS,
    Measure,
    OnnxRuntime,
    Ours,
    PyTorch,
    Side,
)
from utils import cli
from utils.checkpoint.weights import find_weights
from utils.errors import UserError
from utils.files import atomic_path
from utils.recipe import Recipe
from utils.report.tables import markdown_table

HEADER = ("model", "measure", "unit", "way", "precision", "median", "samples")
NOTHING = "–"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each model, and writes all samples to the file of --csv."""
    parser = cli.make_parser(__doc__)
    parser.set_defaults(seed=Recipe.seed)
    cli.add_batch_size(parser)
    cli.add_recipe(parser, "lr", lr=5e-4)
    parser.add_argument("--size", type=cli.positive(int), default=256, metavar="PIXELS",
                        help="height and width of the images; default 256")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES),
                        help="default all")
    parser.add_argument("--steps", type=cli.positive(int), default=5,
                        metavar="N", help="turns of each side; default 5")
    parser.add_argument("--ways", nargs="*", choices=[*WAYS, *RUNTIMES], metavar="WAY",
                        help=f"ways to run PyTorch: {', '.join(WAYS)}; or our ONNX file: "
                             f"{', '.join(RUNTIMES)}; without values all; default eager")
    parser.add_argument("--csv", type=Path, metavar="FILE",
                        help="write medians and all samples to this file")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed; pip install -r requirements-align.txt")
    if args.size < 32:
        raise UserError(f"--size {args.size}: must be at least 32, for the synthetic images")
    if args.batch_size < 2:
        raise UserError(f"--batch_size {args.batch_size}: must be at least 2, for batch norm")
    if args.precision == "bf16":
        raise UserError("--precision bf16: is measured beside float32; give --ways instead")
    entrants = choose_entrants(args)
    records, idle, notes = [], [], []
    for number, name in enumerate(args.model_names):
        weights = find_weights(args.output_dir, args.dataset_names[0], name)
        with Round(name, args, weights, entrants) as turns:
            if number == 0:
                print(*turns.descriptions, sep="\n")
                print(f"Batch {args.batch_size}, {args.size}x{args.size}; medians of {args.steps} "
                      "turns")
            results = list(turns.results())
        print(f"\n{markdown_table(table(name, results, entrants))}", flush=True)
        records += [(name, measure.title, measure.unit, title, entrants[title].precision,
                     f"{statistics.median(values):.6g}", " ".join(f"{v:.6g}" for v in values))
                    for measure, samples in results for title, values in samples.items()]
        idle += turns.idle
        notes += turns.notes
        if args.csv:
            with atomic_path(args.csv) as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file).writerows([HEADER, *records])
    print(f"\nA waiting process used at most {100 * max(idle, default=0):.1f} % of a core.")
    print(*notes, sep="\n")


class Entrant(NamedTuple):
    """A side that takes part."""

    ours: bool
    precision: str  # "float32" or "bf16": entrants of one precision are compared
    side: Callable[..., Side]  # of the model's name, the flags and the device
    gpu_only: bool = False
    trains: bool = True


def choose_entrants(args: Namespace) -> dict[str, Entrant]:
    """All that take part, by title, in the order of a turn."""
    ways = ["eager"] if args.ways is None else args.ways or [*WAYS, *RUNTIMES]
    found = {title: Entrant(False, way.precision, functools.partial(PyTorch, way=way),
                            way.benchmark, not way.freezing)
             for title, way in WAYS.items() if title in ways}
    for title, (package, precision) in RUNTIMES.items():
        if title in ways:
            side = functools.partial(OnnxRuntime, package=package, precision=precision)
            found[title] = Entrant(False, precision, side, trains=False)
    found["ours, float32"] = Entrant(True, "float32",
                                     functools.partial(Ours, precision=args.precision))
    if args.ways is not None:
        found["ours, bf16"] = Entrant(True, "bf16", functools.partial(Ours, precision="bf16"))
    return found


Samples = Mapping[str, Sequence[float]]  # title → in the measure's unit


def table(
    name: str, results: Sequence[tuple[Measure, Samples]], entrants: Mapping[str, Entrant]
) -> list[list[str]]:
    """The medians of each side, and ours held to the best way of each precision."""
    medians = [(measure, {title: statistics.median(values) for title, values in samples.items()})
               for measure, samples in results]
    rows = [[name, *(measure.title for measure, _ in medians)]]
    for title in entrants:
        if any(title in values for _, values in medians):
            rows.append([title, *(f"{_digits(values[title])} {measure.unit}" if title in values
                                  else NOTHING for measure, values in medians)])
    for precision in dict.fromkeys(entrant.precision for entrant in entrants.values()):
        found = [compare(measure, values, entrants, precision) for measure, values in medians]
        if any(found):
            rows.append([f"ours to the best, {precision}",
                         *(f"{pair[1]:.2f} ({pair[0]})" if pair else NOTHING for pair in found)])
    return rows


def compare(
    measure: Measure, medians: Mapping[str, float], entrants: Mapping[str, Entrant], precision: str
) -> tuple[str, float] | None:
    """Ours against the best way of PyTorch at the same precision.

    Args:
        medians: of the entrants that were measured.

    Returns:
        The best way's title and the ratio, above 1 where ours is better; None without a pair.
    """
    ways, ours = ({title: value for title, value in medians.items()
                   if entrants[title].precision == precision and entrants[title].ours == whose}
                  for whose in (False, True))
    if not (ways and ours):
        return None
    (value,) = ours.values()
    best = min(ways, key=lambda title: measure.ratio(ways[title], value))
    return best, measure.ratio(ways[best], value)


def _digits(value):
    """Three significant digits, or all of an integer part."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


class Round:
    """The processes of a model, which take turns; a context manager that ends them.

    Args:
        weights: the file that all sides load; None: our initial weights.
        entrants: by title. The first of ours is started first, and the others use its device. An
            entrant that fails is left out from then on.
    """

    def __init__(self, name: str, args: Namespace, weights: Path | None,
                 entrants: Mapping[str, Entrant]):
        self.name, self.args, self.weights, self.entrants = name, args, weights, entrants
        self.leader = next(title for title, entrant in entrants.items() if entrant.ours)
        self.idle = []  # fractions of a core, while waiting
        self.notes = [f"{name}: {weights or 'initial weights'}"]

    def __enter__(self) -> Round:
        self.processes, self.pipes, self.descriptions, self.used = {}, {}, [], {}
        self.gone = set()
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
        """Leaves a side out that fails, unless no pair to compare is then left."""
        try:
            yield
        except UserError as error:
            self.gone.add(title)
            left = {each.ours for name, each in self.entrants.items() if name not in self.gone}
            if left != {True, False}:
                raise
            if title in self.processes:
                self._end(title)
            self.notes.append(f"{self.name}: {title} is left out: {error}")

    @staticmethod
    def _receive(pipe, title):
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise UserError(f"{title} has died; see its output above, or if there is none, free "
                            "memory: then the system killed it") from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _ask(self, title, *request):
        """Asks one side; notes the fraction of a core that it used since the last question."""
        with contextlib.suppress(BrokenPipeError):  # if it has died, no answer will come
            self.pipes[title].send(request)
        answer, before, after = self._receive(self.pipes[title], title)
        if title in self.used:
            used, since = (now - then for now, then in zip(before, self.used[title]))
            if since > 0.1:
                self.idle.append(used / since)
        self.used[title] = after
        return answer

    def _ask_all(self, *request, training=False):
        """The answers by title, one side after the other, in the order of the entrants."""
        answers = {}
        for title, entrant in self.entrants.items():
            if title not in self.pipes or training and not entrant.trains:
                continue
            with self._or_without(title):
                answers[title] = self._ask(title, *request)
        return answers

    def results(self) -> Iterator[tuple[Measure, dict[str, list[float]]]]:
        """Yields each measure as soon as it is taken, with title → samples in its unit."""
        for key, measure in MEASURES.items():  # in this order: the peak memory must be of the steps
            if key not in self.args.measures:
                continue
            ask = functools.partial(self._ask_all, training=key == "step")
            ask("prepare", key, self.initial)
            bar = tqdm(range(self.args.steps), f"{self.name} {key}", leave=False, disable=None)
            turns = [ask("turn", key, measure.calls) for _ in bar]
            convert = {"s": lambda s: s, "ms": lambda s: 1000 * s,
                       "images/s": lambda s: self.args.batch_size / s}[measure.unit]
            yield measure, {title: [convert(turn[title]) for turn in turns]
                            for title in turns[-1]}  # without those who have died
            if key == "step":
                peaks = ask("peak")
                if None not in peaks.values():
                    yield MEMORY, {title: [peak / 1e6] for title, peak in peaks.items()}


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

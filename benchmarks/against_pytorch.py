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
"""

from __future__ import annotations

import abc
import contextlib
import csv
import importlib.util
import multiprocessing
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.measuring import most_resident_bytes, seconds_of
from benchmarks.official_scoring import OfficialScores
from benchmarks.table import print_head, print_row
from utils import cli
from utils.checkpoint.weights import find_weights
from utils.data.datasets import Split, load_splits, train_batches
from utils.data.images import to_float
from utils.data.synthetic import make_sample
from utils.errors import UserError
from utils.files import atomic_path
from utils.recipe import Recipe


class Measure(NamedTuple):
    """How a measure is taken and shown."""

    title: str
    unit: str
    calls: int = 1  # in a turn, whose result is their median: caches are cold at its beginning
    whole_set: bool = False  # takes --passes turns, not --steps


MEASURES = {
    "step": Measure("training step", "s", 3),
    "latency": Measure("one image, latency", "ms", 20),
    "throughput": Measure("batches, throughput", "images/s", 3),
    "score": Measure("predict and score the test list", "s", whole_set=True),
    "epoch": Measure("epoch with evaluation", "s", whole_set=True),
}
MEMORY = Measure("peak memory of training", "MB")
COMPARED = ("mIoU", "pixAcc", "fscore", "Pd", "Fa", "AUC")

Weights = Mapping[str, np.ndarray]  # official name → array


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
    parser.add_argument("--csv", type=Path, metavar="FILE", help="medians and all samples")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install -r requirements-align.txt")
    if args.size < 32:
        raise UserError(f"--size {args.size}: must be at least 32, for the synthetic images")
    if args.batch_size < 2:
        raise UserError(f"--batch_size {args.batch_size}: must be at least 2, for batch norm")
    table, idle, notes = [], [], []
    for name in args.model_names:
        weights = find_weights(args.output_dir, args.dataset_names[0], name)
        with Pair(name, args, weights) as pair:
            if not table:
                _print_head(args, pair)
            for row in pair.rows():
                table.append(row)
                print_row(*row.cells())
            idle += pair.idle
            notes += pair.notes
    print(f"\nA waiting process used at most {100 * max(idle, default=0):.1f} % of a core.")
    print(*notes, sep="\n")
    if args.csv:
        with atomic_path(args.csv) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row.HEADER)
            writer.writerows(row.record() for row in table)


def _print_head(args, pair):
    print(*pair.descriptions, sep="\n")
    print(f"Batch {args.batch_size}, {args.size}x{args.size}; medians of {args.steps} turns, of "
          f"{args.passes} for whole sets\n")
    print_head("model", "measure", "PyTorch", "ours", "ratio")


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
        ratio = ours / pytorch if self.measure.unit == "images/s" else pytorch / ours
        return pytorch, ours, ratio

    def cells(self) -> tuple[str, ...]:
        """As text, for the table."""
        pytorch, ours, ratio = self.medians()
        unit = self.measure.unit
        return (self.model, self.measure.title, f"{_digits(pytorch)} {unit}",
                f"{_digits(ours)} {unit}", f"{ratio:.2f}")

    def record(self) -> tuple[str, ...]:
        """For the CSV file."""
        samples = (" ".join(f"{value:.6g}" for value in side) for side in (self.pytorch, self.ours))
        medians = (f"{value:.6g}" for value in self.medians())
        return (self.model, self.measure.title, self.measure.unit, *medians, *samples)


def _digits(value):
    """Three significant digits, or all of an integer part."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


class Pair:
    """The two processes of a model; a context manager, at whose end they are gone.

    Args:
        weights: the file that both take; None: the initial ones of ours.
    """

    def __init__(self, name: str, args: Namespace, weights: Path | None):
        self.name, self.args, self.weights = name, args, weights
        self.idle = []  # shares of a core, while waiting
        self.notes = [f"{name}: {weights or 'initial weights'}"]

    def __enter__(self) -> Pair:
        spawn = multiprocessing.get_context("spawn")
        self.processes, self.pipes, self.descriptions, self.used = [], [], [], [None, None]
        device = self.args.device
        for side in (Ours, PyTorch):
            pipe, other_end = spawn.Pipe()
            process = spawn.Process(
                target=_serve, args=(side, self.name, self.args, device, other_end), daemon=True)
            process.start()
            other_end.close()
            self.processes.append(process)
            self.pipes.append(pipe)
            description, device = self._receive(pipe)  # PyTorch goes where ours went
            self.descriptions.append(description)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes):
            pipe.close()
            process.join()

    @staticmethod
    def _receive(pipe):
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise UserError("one side has died; what it printed is above, and nothing is there if "
                            "the system killed it, for want of memory") from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _ask(self, which, *request):
        """Has one side do something; notes what it used of a core since it was last asked."""
        with contextlib.suppress(BrokenPipeError):  # if it has died, no answer will come
            self.pipes[which].send(request)
        answer, before, after = self._receive(self.pipes[which])
        if self.used[which] is not None:
            used, since = (now - then for now, then in zip(before, self.used[which]))
            if since > 0.1:
                self.idle.append(used / since)
        self.used[which] = after
        return answer

    def rows(self) -> Iterator[Row]:
        """A `Row` for each measure, as soon as it is taken."""
        weights = self._ask(0, "weights", self.weights)
        for key, measure in MEASURES.items():  # in this order: the peak is that of the steps
            if key not in self.args.measures:
                continue
            for which in (1, 0):
                self._ask(which, "prepare", key, weights)
            turns = self.args.passes if measure.whole_set else self.args.steps
            samples = [[], []]
            for _ in tqdm(range(turns), f"{self.name} {key}", leave=False, disable=None):
                for which in (1, 0):
                    samples[which].append(self._ask(which, "turn", key, measure.calls))
            convert = {"s": lambda s: s, "ms": lambda s: 1000 * s,
                       "images/s": lambda s: self.args.batch_size / s}[measure.unit]
            yield Row(self.name, measure, *(list(map(convert, samples[i])) for i in (1, 0)))
            if key == "score":
                ours, pytorch = (self._ask(which, "last_scores") for which in (0, 1))
                apart = max(abs(ours[score] - pytorch[score]) for score in COMPARED)
                self.notes.append(f"{self.name}: the scores of both are {apart:.1e} apart at most")
            if key == "step":
                peaks = [self._ask(which, "peak") for which in (1, 0)]
                if None not in peaks:
                    yield Row(self.name, MEMORY, *([peak / 1e6] for peak in peaks))


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


class Side(abc.ABC):
    """One framework in its process; the measures are its methods, of the names in MEASURES.

    Attributes:
        device: "cpu" or "cuda".
        description: one line for the head of the table.
    """

    device: str
    description: str

    def __init__(self, args: Namespace):
        self.args = args
        # No random numbers: on such images PyTorch meets many subnormal ones in its gradients, and
        # takes a quarter longer than on real images.
        samples = [make_sample(args.size, args.size, np.random.default_rng([args.seed, index]))
                   for index in range(args.batch_size)]
        images, masks = map(np.stack, zip(*samples))
        self.x, self.mask = to_float(images)[:, None], masks[:, None].astype(np.float32)
        self.splits = None
        if any(MEASURES[key].whole_set for key in args.measures):
            self.splits = load_splits(args.dataset_dir, args.dataset_names[0],
                                      num_workers=args.num_workers)
            self.splits[0].resized(args.size)  # once for all epochs, and not in the first

    @abc.abstractmethod
    def load(self, weights: Weights, train: bool) -> None:
        """Takes weights over, makes a new optimiser, and is ready to train or to predict."""

    @abc.abstractmethod
    def train_step(self, x: np.ndarray, mask: np.ndarray) -> None:
        """Returns when all is computed."""

    @abc.abstractmethod
    def predict(self, x: np.ndarray) -> np.ndarray:
        """N×1×H×W images → N×H×W probabilities."""

    @abc.abstractmethod
    def train_epoch(self, split: Split) -> None:
        """All batches of a list."""

    @abc.abstractmethod
    def evaluate(self, split: Split, roc: bool) -> dict[str, Any]:
        """Predicts and scores a list."""

    @abc.abstractmethod
    def peak(self) -> int | None:
        """The most memory that it has taken, in bytes; None if the system does not tell."""

    def prepare(self, key: str, weights: Weights) -> None:
        """Loads the weights and repeats the measure, at small size, until it is steady."""
        self.load(weights, key == "step")
        before = float("inf")
        for _ in range(8):
            seconds = self.turn(key, 1, short=True)
            if seconds > 0.9 * before:
                break
            before = seconds
        if MEASURES[key].whole_set:
            self.load(weights, False)

    def turn(self, key: str, calls: int, short: bool = False) -> float:
        """The median of the seconds that so many calls take."""
        return statistics.median(
            seconds_of(lambda: getattr(self, key)(short)) for _ in range(calls))

    # The measures; `short` is on a part of the images.

    def step(self, _: bool) -> None:
        self.train_step(self.x, self.mask)

    def latency(self, _: bool) -> None:
        self.predict(self.x[:1])

    def throughput(self, _: bool) -> None:
        self.predict(self.x)

    def score(self, short: bool) -> None:
        self.scores = self.evaluate(self._images(1, short), roc=True)

    def last_scores(self) -> dict[str, float]:
        """Those of the last `score` that both sides have."""
        return {key: value for key, value in self.scores.items() if key in COMPARED}

    def epoch(self, short: bool) -> None:
        self.train_epoch(self._images(0, short))
        self.evaluate(self._images(1, short), roc=False)

    def _images(self, which, short):
        """A list of the dataset, or enough of it for a full batch and the last, smaller one."""
        split = self.splits[which]
        batch = self.args.batch_size
        count = batch + len(split) % batch if short else len(split)
        parts = (part[:count] for part in (split.names, split.images, split.masks))
        return Split(split.name, split.split, split.folder, *parts) if short else split


class Ours(Side):
    """This project's code, as its scripts run it."""

    def __init__(self, name: str, args: Namespace, device: str):
        from utils import runtime

        running = runtime.start(device, args.precision)
        runtime.set_seed(args.seed)
        super().__init__(args)
        from model import build_model

        self.jt, self.device = runtime.jt, running.device
        self.net = build_model(name)
        self.description = running.describe()

    def weights(self, path: Path | None) -> dict[str, np.ndarray]:
        """Those of a file, or the initial ones if it is None: official name → array."""
        from utils.checkpoint.weights import get_weights, load_weights

        if path:
            load_weights(self.net, path)
        return get_weights(self.net)

    def load(self, weights: Weights, train: bool) -> None:
        from utils.checkpoint.weights import load_weights
        from utils.optim import Adam

        load_weights(self.net, weights)
        self.net.train()  # eval() stops the gradients, and Adam takes no parameter without
        self.optimizer = Adam(self.net.parameters(), self.args.lr)
        if not train:
            self.net.eval()

    def train_step(self, x: np.ndarray, mask: np.ndarray) -> None:
        from model import soft_iou_loss

        jt = self.jt
        self.optimizer.step(soft_iou_loss(self.net(jt.array(x)), jt.array(mask)))
        jt.sync_all(True)

    def predict(self, x: np.ndarray) -> np.ndarray:
        from utils.predict.maps import predict

        return predict(self.net, x)

    def train_epoch(self, split: Split) -> None:
        from utils.training.engine import train_one_epoch

        recipe = Recipe(epochs=1, batch_size=self.args.batch_size, image_size=self.args.size,
                        seed=self.args.seed)
        train_one_epoch(self.net, self.optimizer, split, recipe, 1, [], lambda: None)

    def evaluate(self, split: Split, roc: bool) -> dict[str, Any]:
        from utils.training.engine import evaluate

        return evaluate(self.net, split, self.args.batch_size).compute()

    def peak(self) -> int | None:
        if self.device == "cuda":
            return self.jt.core.get_mem_info().total_cuda_used
        return most_resident_bytes()


class PyTorch(Side):
    """The twin, as PyTorch's users run such a network."""

    def __init__(self, name: str, args: Namespace, device: str):
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("PyTorch does not see the GPU that Jittor uses: --device cpu, or "
                            "install its build for CUDA")
        torch.manual_seed(args.seed)
        super().__init__(args)
        from alignment.torch_compare import describe, set_precision
        from alignment.twin import build_twin

        set_precision(args.precision)
        self.torch, self.device = torch, device
        self.net = build_twin(name).to(device)
        self.description = f"{describe(device)}, eager, float32"

    def load(self, weights: Weights, train: bool) -> None:
        from alignment.twin import load_weights

        load_weights(self.net, weights)
        self.net.train(train)
        self.optimizer = self.torch.optim.Adam(self.net.parameters(), self.args.lr)

    def _on_device(self, array):
        return self.torch.from_numpy(array).to(self.device)

    def train_step(self, x: np.ndarray, mask: np.ndarray) -> None:
        from alignment.twin import soft_iou_loss

        self.optimizer.zero_grad()
        loss = soft_iou_loss(self.net(self._on_device(x)), self._on_device(mask))
        loss.backward()
        self.optimizer.step()
        loss.item()  # waits for the GPU

    def predict(self, x: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            return self.net(self._on_device(x)).cpu().numpy()[:, 0]

    def train_epoch(self, split: Split) -> None:
        self.net.train()
        for _, x, y in train_batches(split, self.args.batch_size, self.args.size,
                                     self.args.seed, 1):
            self.train_step(x, y)

    def evaluate(self, split: Split, roc: bool) -> dict[str, Any]:
        self.net.eval()
        scores = OfficialScores(roc)
        for image, mask in zip(split.images, split.masks):
            scores.update(self.predict(to_float(image)[None, None])[0], mask)
        return scores.compute()

    def peak(self) -> int | None:
        if self.device == "cuda":
            return self.torch.cuda.max_memory_reserved()
        return most_resident_bytes()


if __name__ == "__main__":
    cli.run(main)

"""The sides of benchmarks/against_pytorch.py: ours, ways to run PyTorch, runtimes of ONNX."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from importlib import metadata
from pathlib import Path
from typing import Mapping, NamedTuple

import numpy as np

from utils.cli import ROOT
from utils.data.images import to_float
from utils.data.synthetic import make_sample
from utils.errors import UserError


class Measure(NamedTuple):
    """A measure: its title, its unit, and the calls of a turn.

    A turn yields the median of its calls, because caches are cold at the first.
    """

    title: str
    unit: str
    calls: int = 1

    def ratio(self, pytorch: float, ours: float) -> float:
        """Above 1 where ours is better."""
        return ours / pytorch if self.unit == "images/s" else pytorch / ours


MEASURES = {
    "step": Measure("training step", "s", 3),
    "latency": Measure("one image, latency", "ms", 20),
    "throughput": Measure("batches, throughput", "images/s", 3),
}
MEMORY = Measure("peak memory of training", "MB")


class Way(NamedTuple):
    """A way to run a network in PyTorch."""

    compile: bool = False
    channels_last: bool = False
    bf16: bool = False  # autocast; the loss is computed outside, in float32
    benchmark: bool = False  # torch.backends.cudnn.benchmark: seeks a GPU's fastest algorithms
    freezing: bool = False  # torch.compile takes the weights for constants, so it cannot train

    @property
    def precision(self) -> str:
        """The precision of activations and convolutions."""
        return "bf16" if self.bf16 else "float32"

    def describe(self) -> str:
        """The way in a few words."""
        words = ("torch.compile" if self.compile else "eager", self.channels_last * "channels_last",
                 self.benchmark * "cudnn.benchmark", self.freezing * "freezing",
                 "bf16 autocast" if self.bf16 else "float32")
        return ", ".join(filter(None, words))


# The words of a title are fields of `Way`.
WAYS = {title: Way(*(field in title.split("+") for field in Way._fields)) for title in (
    "eager", "channels_last", "compile", "compile+channels_last", "compile+channels_last+freezing",
    "benchmark", "benchmark+channels_last", "benchmark+compile", "benchmark+compile+channels_last",
    "bf16", "bf16+channels_last", "bf16+channels_last+compile")}

# Runtimes that predict with the file that convert_weights.py writes: title → package, precision.
RUNTIMES = {"onnxruntime": ("onnxruntime", "float32"), "OpenVINO": ("openvino", "float32"),
            "OpenVINO bf16": ("openvino", "bf16")}

# What a GPU computes with where the activations are in float32, on both sides, by --precision.
ON_GPU = {"default": "TF32 in convolutions, float32 in matrix products", "tf32": "TF32",
          "float32": "no TF32"}

Weights = Mapping[str, np.ndarray]  # official name → array


class Side:
    """One framework in its process. Its subclasses predict, and all but `OnnxRuntime` train.

    Attributes:
        device: "cpu" or "cuda".
        description: one line for the head of the table.
    """

    device: str
    description: str

    def __init__(self, args: Namespace):
        self.args = args
        # Not random numbers: they give PyTorch many subnormal gradients, with which it takes a
        # quarter longer than on real images.
        samples = [make_sample(args.size, args.size, np.random.default_rng([args.seed, index]))
                   for index in range(args.batch_size)]
        images, masks = map(np.stack, zip(*samples))
        self.x, self.mask = to_float(images)[:, None], masks[:, None].astype(np.float32)

    def load(self, weights: Weights, train: bool) -> None:
        """Takes weights over, makes a new optimiser, and is ready to train or to predict."""
        raise NotImplementedError

    def train_step(self) -> None:
        """Trains on `x` and `mask`; returns when all is computed."""
        raise NotImplementedError

    def predict(self, x: np.ndarray) -> np.ndarray:
        """N×1×H×W images → N×H×W probabilities."""
        raise NotImplementedError

    def peak(self) -> int | None:
        """The largest memory so far in bytes; None if the system does not tell."""
        with contextlib.suppress(OSError, TypeError):  # getrusage has the parent's in it
            status = Path("/proc/self/status").read_text()
            return 1024 * int(re.search(r"^VmHWM:\s*(\d+)", status, re.M)[1])
        return None

    def prepare(self, key: str, weights: Weights) -> None:
        """Loads the weights and repeats the measure until it is steady."""
        self.load(weights, key == "step")
        before = float("inf")
        for _ in range(8):
            seconds = self.turn(key, 1)
            if seconds > 0.9 * before:
                break
            before = seconds

    def turn(self, key: str, calls: int) -> float:
        """The median seconds of the calls of a measure."""
        call = {"step": self.train_step, "latency": lambda: self.predict(self.x[:1]),
                "throughput": lambda: self.predict(self.x)}[key]
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)


class Ours(Side):
    """This project's code, as its scripts run it with `precision`."""

    def __init__(self, name: str, args: Namespace, device: str, precision: str):
        from utils import runtime

        running = runtime.start(device, precision)
        runtime.set_seed(args.seed)
        super().__init__(args)
        from model import build_model

        self.jt, self.device = runtime.jt, running.device
        self.net = build_model(name)
        self.description = running.describe()
        if self.device == "cuda":
            self.description += f" ({ON_GPU[running.precision]})"

    def weights(self, path: Path | None) -> dict[str, np.ndarray]:
        """The weights of a file, or the initial ones for None: official name → array."""
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
            from utils.predict.maps import to_predict

            self.fast = to_predict(self.net)

    def train_step(self) -> None:
        from model import soft_iou_loss

        jt = self.jt
        self.optimizer.step(soft_iou_loss(self.net(jt.array(self.x)), jt.array(self.mask)))
        jt.sync_all(True)

    def predict(self, x: np.ndarray) -> np.ndarray:
        from utils.predict.maps import predict

        return predict(self.fast, x)

    def peak(self) -> int | None:
        if self.device == "cuda":
            return self.jt.core.get_mem_info().total_cuda_used
        return super().peak()


class PyTorch(Side):
    """The twin, run in `way`."""

    def __init__(self, name: str, args: Namespace, device: str, way: Way):
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("PyTorch does not see the GPU that Jittor uses; add --device cpu, or "
                            "install its build for CUDA")
        torch.manual_seed(args.seed)
        super().__init__(args)
        from alignment import twin
        from alignment.torch_compare import describe, set_precision

        set_precision(args.precision)
        torch.backends.cudnn.benchmark = way.benchmark
        if way.freezing:
            import torch._inductor.config

            torch._inductor.config.freezing = True
        self.torch, self.twin, self.device, self.name, self.way = torch, twin, device, name, way
        self.layout = torch.channels_last if way.channels_last else torch.preserve_format
        self.net = twin.build_twin(name).to(device, memory_format=self.layout)
        self.run = torch.compile(self.net, dynamic=False) if way.compile else self.net
        self.description = f"{describe(device)}, {way.describe()}"
        if device == "cuda":
            self.description += (f" ({ON_GPU[args.precision]}), CUDA {torch.version.cuda}, "
                                 f"cuDNN {torch.backends.cudnn.version()}")

    def prepare(self, key: str, weights: Weights) -> None:
        if self.way.compile:
            print(f"{self.name}, {MEASURES[key].title}: torch.compile is at work, which can take "
                  "minutes", file=sys.stderr, flush=True)
        if self.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
        super().prepare(key, weights)

    def load(self, weights: Weights, train: bool) -> None:
        self.twin.load_weights(self.net, weights)
        self.net.train(train)
        self.optimizer = self.torch.optim.Adam(self.net.parameters(), self.args.lr)

    def _on_device(self, array):
        return self.torch.from_numpy(array).to(self.device, memory_format=self.layout)

    def _forward(self, x):
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.way.bf16):
            return self.run(self._on_device(x)).float()

    def train_step(self) -> None:
        self.optimizer.zero_grad()
        self.twin.soft_iou_loss(self._forward(self.x), self._on_device(self.mask)).backward()
        self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def predict(self, x: np.ndarray) -> np.ndarray:
        no_grad = self.torch.no_grad if self.way.compile else self.torch.inference_mode
        with no_grad():
            return self._forward(x).cpu().numpy()[:, 0]

    def peak(self) -> int | None:
        if self.device == "cuda":  # the pool, of which Jittor tells the size as well
            return self.torch.cuda.max_memory_reserved()
        return super().peak()


class OnnxRuntime(Side):
    """Our ONNX file in onnxruntime or OpenVINO, on the CPU; it predicts only."""

    def __init__(self, name: str, args: Namespace, device: str, package: str, precision: str):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; pip install -r requirements-peers.txt")
        if device != "cpu":
            raise UserError("runs on the CPU only; add --device cpu")
        super().__init__(args)
        self.name, self.device, self.package, self.precision = name, device, package, precision
        self.folder = tempfile.TemporaryDirectory()  # goes with this process
        self.description = f"{package} {metadata.version(package)}, {precision}, our ONNX file"

    def prepare(self, key: str, weights: Weights) -> None:
        source, target = (Path(self.folder.name, name) for name in ("net.npz", "net.onnx"))
        if not target.is_file():  # for each measure the weights are the same
            np.savez(source, **weights)
            subprocess.run([sys.executable, ROOT / "convert_weights.py", source, target,
                            "--model_name", self.name], check=True, capture_output=True)
        self.run = self._session(target, 1 if key == "latency" else self.args.batch_size)
        super().prepare(key, weights)

    def _session(self, path, batch):
        if self.package == "onnxruntime":
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (image,) = session.get_inputs()
            return lambda x: session.run(None, {image.name: x})[0]
        import openvino

        core = openvino.Core()
        if self.precision == "bf16" and "BF16" not in core.get_property(
                "CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError("OpenVINO has no bfloat16 on this processor")
        model = core.read_model(path)
        model.reshape([batch, 1, self.args.size, self.args.size])
        request = core.compile_model(model, "CPU", {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
        return lambda x: request.infer([x])[0]

    def load(self, weights: Weights, train: bool) -> None:
        pass  # `prepare` has done it

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.run(x)[:, 0]

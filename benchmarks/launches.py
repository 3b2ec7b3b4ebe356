"""Counts what a training step asks of a GPU, without one: `python -m benchmarks.launches`.

The step (batch 8×256×256, loss, gradients, Adam) is written as for a GPU and read from Jittor's
pending graph before anything runs. Jittor's rules of fusion, applied to that graph, tell which
operators become one kernel:

- element-wise operators, broadcasts and reductions fuse; an operator of any other kind is alone;
- an operator fuses with the one after it, unless it is a reduction, or a broadcast follows it;
- operators that share an input fuse if no path between them leads through another kernel;
- other kernels compute a cheap value again, and always a broadcast.

Columns: Jittor's operators; the kernels that its fuser makes of them; all launches (two for a fused
kernel with a reduction, one for an operator of cuDNN, our own kernels as they are started); the
memory that kernels read and write, without convolutions; the size of all float64 arrays, and of the
largest; copies from the host, each of which waits for the device: two for the batch.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from model import MODEL_NAMES, build_model, soft_iou_loss
from utils import cli, runtime
from utils.optim import Adam
from utils.report.tables import print_head, print_row

KINDS = {**dict.fromkeys(("unary", "binary", "ternary", "index", "safe_clip"), "element"),
         **dict.fromkeys(("broadcast_to", "reindex"), "broadcast"),
         **dict.fromkeys(("reduce", "reindex_reduce"), "reduce")}
WITHOUT_KERNEL = {"array", "reshape", "tape", "tapes", "clone", "empty"}  # if they are alone
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bfloat16": 2}
MANY = 16  # Jittor does not fuse the users of a variable if there are this many


class Counts(NamedTuple):
    """The numbers of one training step; sizes in bytes."""

    operators: int
    fused_kernels: int
    launches: int
    traffic: int
    float64: int
    largest_float64: int
    copies: int


class _Value(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    name: str

    @property
    def bytes(self):
        return int(np.prod(self.shape, dtype=np.int64)) * BYTES.get(self.dtype, 1)


class Graph:
    """The pending graph: operators and variables by their numbers, and how Jittor would fuse them.

    Attributes:
        kind: operator → element, broadcast, reduce or other.
        name: operator → its name.
        value: variable → its type and shape.
        producer: variable that is to be computed → its operator.
        inputs, outputs: operator → its variables; `outputs`: variable → the operators that use it.
    """

    def __init__(self, dump: Any):
        self.inputs, self.outputs = list(map(list, dump.inputs)), list(map(list, dump.outputs))
        self.kind, self.name, self.value = {}, {}, {}
        for node, text in enumerate(dump.nodes_info):
            if text.startswith("Op"):
                self.name[node] = re.match(r"Op\([^,]*,([^-)]*)", text).group(1)
            else:
                dtype, name, shape = re.search(
                    r",(\w+),([^,]*),[0-9a-f]*\)\[([\d,\-]*)\]", text).groups()
                self.value[node] = _Value(dtype, tuple(int(n) for n in shape.split(",") if n), name)
        self.producer = {v: self.inputs[v][0] for v in self.value if self.inputs[v]}
        self.constants = set()  # numbers, which stand in the text of kernels
        for op, name in self.name.items():
            self.kind[op] = KINDS.get(name.split(".")[0], "other")
            if name == "array" and self.value[self.outputs[op][0]].shape == (1,):
                self.kind[op] = "element"
                self.constants.add(self.outputs[op][0])
        self._group()
        self._find_memory()

    def _joins(self, v, user):
        """True if v lets its producer and this user be one kernel."""
        if not self.outputs[v]:
            return False
        kinds = self.kind[user], self.kind[self.producer[v]]
        if "other" in kinds or set(self.value[v].shape) <= {1} and kinds[0] != "broadcast":
            return False
        return v in self.constants or kinds[1] != "reduce" and kinds[0] != "broadcast"

    def _levels(self):
        """Operator → number of cuts between kernels from it to the end."""
        waiting = {op: sum(len(self.outputs[v]) for v in self.outputs[op]) for op in self.kind}
        level = {op: 0 for op, count in waiting.items() if count == 0}
        queue = list(level)
        for op in queue:
            for v in self.inputs[op]:
                if v in self.producer:
                    before = self.producer[v]
                    cut = level[op] + (not self._joins(v, op))
                    level[before] = max(level.get(before, 0), cut)
                    waiting[before] -= 1
                    if waiting[before] == 0:
                        queue.append(before)
        return level

    def _group(self):
        """Sets `root`, operator → the first of its kernel, and `groups`, its inverse."""
        level, parent = self._levels(), {op: op for op in self.kind}

        def root(op):
            while parent[op] != op:
                parent[op] = parent[parent[op]]
                op = parent[op]
            return op

        for op in self.kind:
            for v in self.outputs[op]:
                for user in self.outputs[v]:
                    if level[user] == level[op]:
                        parent[root(user)] = root(op)
        for v in self.value:
            users = self.outputs[v]
            for a, b in zip(users, users[1:]):
                kinds = {self.kind[a], self.kind[b]}
                if (a != b and level[a] == level[b] and len(users) < MANY
                        and not kinds & {"other", "broadcast"}):
                    parent[root(b)] = root(a)
        self.root = {op: root(op) for op in self.kind}
        self.groups = defaultdict(list)
        for op in self.kind:
            self.groups[self.root[op]].append(op)

    def _find_memory(self):
        """Sets `in_memory`, the variables that kernels write to memory."""
        self.in_memory = set()
        for v in self.value:
            users = self.outputs[v]
            if v not in self.producer or not users or not all(self._joins(v, u) for u in users):
                self.in_memory.add(v)
            elif not self._is_cheap(v) and any(
                    self.root[user] != self.root[self.producer[v]] for user in users):
                self.in_memory.add(v)

    def _is_cheap(self, v):
        op = self.producer[v]
        if self.kind[op] == "broadcast" or v in self.constants or all(
                self.kind[user] == "reduce" for user in self.outputs[v]):
            return True
        given = self.inputs[op]
        if self.value[v].dtype == "bool" or len(given) > 2:
            return False
        return len(given) < 2 or any(
            self.kind.get(self.producer.get(w)) == "broadcast" for w in given)

    def fused(self) -> list[list[int]]:
        """The kernels that the fuser makes, each a list of operators."""
        return [group for group in self.groups.values()
                if self.kind[group[0]] != "other"
                and any(v in self.in_memory for op in group for v in self.outputs[op])]

    def moved(self, group: Sequence[int]) -> set[int]:
        """The variables that a fused kernel reads or writes."""
        found = {v for op in group for v in self.outputs[op] if v in self.in_memory}
        queue, seen, own = list(group), set(group), set(group)
        for op in queue:
            for v in self.inputs[op]:
                before = self.producer.get(v)
                if before is None or v in self.in_memory and before not in own:
                    found.add(v)
                elif v not in self.in_memory and before not in seen:
                    seen.add(before)
                    queue.append(before)
        return found


def count(graph: Graph) -> Counts:
    """The numbers of a graph."""
    launches = traffic = copies = 0
    kernels = graph.fused()
    for kernel in kernels:
        launches += 1 + any(graph.kind[op] == "reduce" for op in kernel)
        traffic += sum(graph.value[v].bytes for v in graph.moved(kernel))
    for op, kind in graph.kind.items():
        name = graph.name[op]
        if kind != "other" or name in WITHOUT_KERNEL:
            copies += kind == "other" and name == "array"
            continue
        ours = re.fullmatch(r"(\d+)_(\d+)", graph.value[graph.outputs[op][0]].name)
        if ours:  # of model.ops.native.cuda_code
            launches += int(ours.group(1))
            traffic += int(ours.group(2))
            continue
        launches += 1
        if name != "code":  # else a convolution
            traffic += sum(graph.value[v].bytes for v in (*graph.inputs[op], *graph.outputs[op]))
    doubles = [value.bytes for v, value in graph.value.items()
               if value.dtype == "float64" and v in graph.in_memory and v in graph.producer
               and graph.name[graph.producer[v]] not in WITHOUT_KERNEL]
    return Counts(len(graph.kind), len(kernels), launches, traffic, sum(doubles),
                  max(doubles, default=0), copies)


def count_step(name: str, batch: int = 8, size: int = 256) -> Counts:
    """What a training step of a network asks of a GPU."""
    from model.ops.native import rehearse_cuda

    jt = runtime.jt
    with rehearse_cuda():
        net = build_model(name)
        net.train()
        optimizer = Adam(net.parameters())
        jt.sync_all()
        x, mask = (np.zeros((batch, 1, size, size), np.float32) for _ in range(2))
        loss = soft_iou_loss(net(jt.array(x)), jt.array(mask))
        optimizer.step(loss)
        return count(Graph(jt.dump_all_graphs()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_names", nargs="+", default=MODEL_NAMES, choices=MODEL_NAMES,
                        metavar="MODEL", help=f"some of {', '.join(MODEL_NAMES)}; default all")
    parser.add_argument("--batch_size", type=cli.positive(int), default=8, metavar="N",
                        help="images in the step; default 8")
    parser.add_argument("--size", type=cli.positive(int), default=256, metavar="PIXELS",
                        help="height and width of the images; default 256")
    args = parser.parse_args(arguments)
    runtime.start("cpu")
    print_head("network", "operators", "fused", "launches", "traffic", "float64", "largest",
               "copies")
    for name in args.model_names:
        c = count_step(name, args.batch_size, args.size)
        print_row(name, *map(str, (c.operators, c.fused_kernels, c.launches)),
                  f"{c.traffic / 1e9:.2f} GB", f"{c.float64 / 1e9:.3f} GB",
                  f"{c.largest_float64 / 1e6:.3f} MB", str(c.copies))


if __name__ == "__main__":
    cli.run(main)

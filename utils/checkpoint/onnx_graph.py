"""A network for prediction as an ONNX graph, written from its fast form (`model.fast`).

Runtimes need kernels that are constants. So an LLSKM with the kernels A + θ∘B is written as

    Conv(x, A)  +  θ(x) ∘ Conv1×1(x, B)

Batch, height and width are free, unless a size is asked for: then the batch is one, and there is no
Shape, Pad or Slice, which runtimes with fixed shapes lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from model import NETWORKS, fast_form
from utils.errors import UserError

if TYPE_CHECKING:
    import jittor as jt
    import onnx

INPUT, OUTPUT = "image", "probability"
OPSET, IR_VERSION = 17, 8  # of one release of ONNX


def require_onnx(wanted_by: str) -> None:
    """Raises UserError if the package onnx is not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError(f"{wanted_by}: needs the package onnx; "
                        "pip install -r requirements-onnx.txt") from error


def make_onnx(
    net: jt.Module, model_name: str, metadata: Mapping[str, str],
    size: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """The network in evaluation mode, N×1×H×W `image` → N×1×H×W `probability`, float32.

    Args:
        net: of `model.build_model(model_name)`.
        metadata: name → text that the file holds.
        size: height and width of the one image that the file takes; None: any batch and size.

    Raises:
        UserError: the network does not take images of that size without padding, or no rule
            writes its architecture.
    """
    import onnx
    from onnx import TensorProto, helper

    network = NETWORKS[model_name].architecture
    if network not in ARCHITECTURES:
        raise UserError(f"{model_name}: no rule writes a {network} as ONNX; add one to {__name__}")
    multiple = net.multiple
    if size and any(side % multiple for side in size):
        fitting = " ".join(str(-(-side // multiple) * multiple) for side in size)
        raise UserError(f"--size {size[0]} {size[1]}: {model_name} takes multiples of "
                        f"{multiple}; take --size {fitting} and pad the images by their edges")
    graph = _Graph()
    logits = ARCHITECTURES[network](graph, fast_form(net), INPUT, size)
    graph.op("Sigmoid", logits, name=OUTPUT)
    image, probability = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT,
                                      [1, 1, *size] if size else ["N", 1, "H", "W"])
        for name in (INPUT, OUTPUT)
    )
    made = helper.make_model(
        helper.make_graph(graph.nodes, model_name, [image], [probability], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="L2SKNet in Jittor",
    )
    helper.set_model_props(made, dict(metadata))
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph:
    """The nodes and constants of a graph. Each method adds a value and returns its name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """An operator with one output."""
        from onnx import helper

        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any) -> str:
        """Numbers: float64 as float32, integers as int64."""
        from onnx import numpy_helper

        array = np.asarray(values)
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(
        self, x: str, weight: np.ndarray, bias: np.ndarray | None = None, stride: int = 1,
        dilation: int = 1,
    ) -> str:
        """A convolution (O×C×kh×kw, odd) that keeps the size, or divides it by the stride."""
        size = weight.shape[2:]
        padding = [dilation * (k // 2) for k in size]
        inputs = [x, self.constant(weight)] + ([] if bias is None else [self.constant(bias)])
        return self.op("Conv", *inputs, kernel_shape=size, pads=padding * 2,
                       strides=[stride] * 2, dilations=[dilation] * 2)

    def activation(self, x: str, slope: float) -> str:
        """x where it is positive, x·slope elsewhere."""
        if slope == 1:
            return x
        return self.op("LeakyRelu", x, alpha=slope) if slope else self.op("Relu", x)


# ---------------------------------------------------------- one rule per class of `model.fast`


def _conv(graph, conv, x, added=None):
    """A `FastConv`."""
    y = graph.conv(x, conv.weight.numpy(), conv.bias.numpy(), conv.stride)
    if added:
        y = graph.op("Add", y, added)
    return graph.activation(y, conv.slope)


def _stack(graph, stack, x):
    """Several `FastConv` in sequence."""
    for conv in stack:
        x = _conv(graph, conv, x)
    return x


def _theta(graph, attention, i, pooled):
    """θ of branch i by `FastAttention`."""
    first, hidden_bias, second, bias = (values.numpy()[i] for values in attention.parts)
    hidden = graph.op("Relu", graph.conv(pooled, first, hidden_bias))
    return graph.op("Sigmoid", graph.conv(hidden, second, bias))


def _square(graph, branch, x, theta):
    """A `FastLLSKM`: A * x + θ ∘ (B * x), where only the centre tap of B is not zero."""
    common = graph.conv(x, branch.a.numpy()[0], branch.shift.numpy(), dilation=branch.dilation)
    return graph.op("Add", common, graph.op("Mul", theta, graph.conv(x, branch.centre().numpy())))


def _separable(graph, branch, x, theta):
    """A `FastLLSKM1D`: A * x + θ ∘ (B * x) with 1×1 kernels, plus the separable pair of x."""
    common = graph.conv(x, branch.a.numpy()[0])
    pair = graph.conv(_conv(graph, branch.row, x), branch.column.numpy(), branch.shift.numpy())
    attended = graph.op("Mul", theta, graph.conv(x, branch.centre().numpy()))
    return graph.op("Add", graph.op("Add", common, pair), attended)


def _contrast(graph, stage, x):
    """A `FastStage`."""
    pooled, total = graph.op("GlobalAveragePool", x), None
    for i, branch in enumerate(stage.branches):
        form = _separable if hasattr(branch, "row") else _square
        y = form(graph, branch, x, _theta(graph, stage.attention, i, pooled))
        y = graph.activation(y, stage.slope)
        total = y if total is None else graph.op("Add", total, y)
    return total if stage.merge is None else _stack(graph, stage.merge, total)


def _up(graph, up, x):
    """A `FastUp`."""
    x = graph.op("Resize", x, "", graph.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    y = graph.conv(x, up.weight.numpy(), up.bias.numpy())
    return graph.activation(y, up.slope)


def _fuse(graph, fuse, coarse, fine, size):
    """A `FastFuse`; `size`: height and width of the finer level if they are fixed, else None."""
    y = _conv(graph, fuse.conv, coarse)
    if size:
        shape = graph.constant([1, fuse.conv.weight.shape[0], *size])
    else:
        sides = graph.op("Shape", fine, start=2)
        shape = graph.op("Concat", graph.op("Shape", y, end=2), sides, axis=0)
    y = graph.op("Resize", y, "", "", shape, mode="linear",
                 coordinate_transformation_mode="half_pixel")
    return graph.op("Add", graph.op("Relu", y), fine)


# -------------------------------------------------------------------------------------- networks


def _unet(graph, net, image, fixed):
    """`UNet.logits` of an image that is padded to multiples of 8 by its edge; crops the result."""
    if fixed:
        return _unet_body(graph, net, image)
    size = graph.op("Shape", image, start=2)
    multiple = graph.constant([net.multiple])
    padded = graph.op("Div", graph.op("Add", size, graph.constant([net.multiple - 1])), multiple)
    missing = graph.op("Sub", graph.op("Mul", padded, multiple), size)
    pads = graph.op("Concat", graph.constant([0] * 6), missing, axis=0)
    y = _unet_body(graph, net, graph.op("Pad", image, pads, mode="edge"))
    start, axes = graph.constant([0, 0]), graph.constant([2, 3])
    return graph.op("Slice", y, start, size, axes)


def _unet_body(graph, net, x):
    levels = []
    for level, block in enumerate((net.Conv1, net.Conv2, net.Conv3, net.Conv4)):
        if level:
            x = graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = _stack(graph, block.conv, x)
        levels.append(_contrast(graph, net.stages[level], x))
    *finer, y = levels
    ups = ((net.Up4, net.Up_conv4), (net.Up3, net.Up_conv3), (net.Up2, net.Up_conv2))
    for (up, merge), fine in zip(ups, reversed(finer)):
        y = _stack(graph, merge.conv, graph.op("Concat", fine, _up(graph, up, y), axis=1))
    return _conv(graph, net.Conv, y)


def _fpn(graph, net, image, fixed):
    """`FPN.logits`; each level has half the rows and columns, rounded up."""
    x, levels = image, []
    for level, blocks in enumerate((net.layer0, net.layer1, net.layer2, net.layer3)):
        for block in blocks:
            skip = x if block.shortcut is None else _stack(graph, block.shortcut, x)
            first, last = block.body
            x = _conv(graph, last, _conv(graph, first, x), skip)
        levels.append(_contrast(graph, net.stages[level], x))
    *finer, y = levels
    fuses = zip((net.fuse32, net.fuse21, net.fuse10), reversed(finer), (4, 2, 1))
    for fuse, fine, scale in fuses:
        y = _fuse(graph, fuse, y, fine, fixed and [-(-side // scale) for side in fixed])
    return _conv(graph, net.head.project, _conv(graph, net.head.conv, y))


# Architecture → its rule, from graph, fast form, image and fixed size to the logits.
ARCHITECTURES = {"UNet": _unet, "FPN": _fpn}

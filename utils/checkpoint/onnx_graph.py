"""A network for evaluation as an ONNX graph, built by hand from its modules.

What runtimes want decides the form. All kernels are constants: batch norms are folded into the
convolutions before them, in float64, the scale into weights and the shift into the bias, which
leaves zero padding as it was. So LLSKM is not one convolution with a kernel for each image, as in
`model.llskm`, but

    Conv(x, δ_centre · W_sum − W)  +  θ(x) ∘ Conv1×1(x, W_c)

Batch, height and width are free, unless a size is asked for: then the batch is one, and there is no
Shape, Pad or Slice, which runtimes with fixed shapes lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model import NETWORKS
from utils.errors import UserError

if TYPE_CHECKING:
    import jittor as jt
    import onnx

INPUT, OUTPUT = "image", "probability"
OPSET, IR_VERSION = 17, 8  # of the same release
UNET_MULTIPLE = 8  # of the sides of an image


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
        metadata: text that the file shall hold, by name.
        size: height and width, the only ones that the file takes, of one image.

    Raises:
        UserError: the network does not take images of that size without padding.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    architecture = {"UNet": _unet, "FPN": _fpn}[NETWORKS[model_name].architecture]
    if size and architecture is _unet and any(side % UNET_MULTIPLE for side in size):
        fitting = " ".join(str(-(-side // UNET_MULTIPLE) * UNET_MULTIPLE) for side in size)
        raise UserError(f"--size {size[0]} {size[1]}: {model_name} takes multiples of "
                        f"{UNET_MULTIPLE}; take --size {fitting} and pad the images by their edges")
    graph.op("Sigmoid", architecture(graph, net, INPUT, size), name=OUTPUT)
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
    """Nodes and constants; a value is known by its name, each method returns that of its own."""

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

    def sum(self, terms: Sequence[str]) -> str:
        """The sum of values of one shape."""
        total, *others = terms
        for term in others:
            total = self.op("Add", total, term)
        return total

    def size(self, x: str) -> str:
        """Height and width, two integers."""
        return self.op("Shape", x, start=2)


# --------------------------------------------------------------------------------------- weights


def _float64(variable):
    return variable.numpy().astype(np.float64)


def _scale_and_shift(norm):
    from model.fast import scale_and_shift  # starts Jittor

    return scale_and_shift(norm)


def _scaled(weight, scale):
    return weight * scale[:, None, None, None]


def _folded(conv, norm):
    from model.fast import folded  # starts Jittor

    return folded(conv, norm)


# ---------------------------------------------------------------------------------------- blocks


def _stack(graph, stack, x):
    """A `ConvStack`."""
    for conv, norm in stack.steps:
        x = graph.conv(x, *_folded(conv, norm), getattr(conv, "stride", 1))
        x = graph.activation(x, norm.slope)
    return x


def _plain(graph, conv, x):
    """A convolution with a bias and no norm after it."""
    return graph.conv(x, _float64(conv.weight), _float64(conv.bias))


def _branch(graph, branch, x, pooled):
    """A `Branch`: LLSKM or LLSKM1D, and the norm after it."""
    kernel, norm = branch
    theta = graph.op("Sigmoid", _stack(graph, kernel.attn.avg_channel, pooled))
    form = _separable if hasattr(kernel, "conv_1xn") else _square
    contrast, w_centre = form(graph, kernel, *_scale_and_shift(norm), x)
    attended = graph.op("Mul", theta, graph.conv(x, w_centre))
    return graph.activation(graph.op("Add", contrast, attended), norm.slope)


def _square(graph, kernel, scale, shift, x):
    """W_sum * X − W * X in a k×k form, and W_c; all times `scale`, and `shift` added."""
    weight, half = _scaled(_float64(kernel.conv.weight), scale), kernel.kernel_size // 2
    contrast = -weight
    contrast[:, :, half, half] += weight.sum((2, 3))
    centre = weight[:, :, half : half + 1, half : half + 1]
    return graph.conv(x, contrast, shift, dilation=kernel.dilation), centre


def _separable(graph, kernel, scale, shift, x):
    """The same in the separable form."""
    half = kernel.kernel_size // 2
    row = _float64(kernel.conv_1xn.weight)
    column = _scaled(_float64(kernel.conv_nx1.weight), scale)
    w_sum = row.sum((2, 3), keepdims=True) * column.sum((2, 3), keepdims=True)
    centre = row[:, :, :, half : half + 1] * column[:, :, half : half + 1, :]
    across = graph.conv(x, row, _float64(kernel.conv_1xn.bias))
    bias = shift - scale * _float64(kernel.conv_nx1.bias)
    return graph.op("Add", graph.conv(x, w_sum), graph.conv(across, -column, bias)), centre


def _contrast(graph, net, level, x):
    """`ContrastNet.contrast`."""
    stage = net.stages[level]
    pooled = graph.op("GlobalAveragePool", x)
    total = graph.sum([_branch(graph, branch, x, pooled) for branch in stage.branches])
    return total if stage.merge is None else _stack(graph, stage.merge, total)


# -------------------------------------------------------------------------------------- networks


def _unet(graph, net, image, fixed):
    """`UNet` without its sigmoid: padded to multiples of 8 by its edge, and cropped back."""
    if fixed:
        return _unet_body(graph, net, image)
    size = graph.size(image)
    eight = graph.constant([UNET_MULTIPLE])
    eights = graph.op("Div", graph.op("Add", size, graph.constant([UNET_MULTIPLE - 1])), eight)
    missing = graph.op("Sub", graph.op("Mul", eights, eight), size)
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
        levels.append(_contrast(graph, net, level, x))
    *finer, y = levels
    ups = ((net.Up4, net.Up_conv4), (net.Up3, net.Up_conv3), (net.Up2, net.Up_conv2))
    for (up, merge), fine in zip(ups, reversed(finer)):
        doubled = graph.op("Resize", y, "", graph.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest",
                           coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        y = graph.op("Concat", fine, _stack(graph, up.up, doubled), axis=1)
        y = _stack(graph, merge.conv, y)
    return _plain(graph, net.Conv, y)


def _fpn(graph, net, image, fixed):
    """`FPN` without its sigmoid; each level has half the rows and columns, rounded up."""
    x, levels = image, []
    for level, blocks in enumerate((net.layer0, net.layer1, net.layer2, net.layer3)):
        for block in blocks:
            skip = x if block.shortcut is None else _stack(graph, block.shortcut, x)
            x = graph.op("Relu", graph.op("Add", _stack(graph, block.body, x), skip))
        levels.append(_contrast(graph, net, level, x))
    *finer, y = levels
    fuses = enumerate(zip((net.fuse32, net.fuse21, net.fuse10), reversed(finer)))
    for steps, (fuse, fine) in fuses:
        scale = 2 ** (2 - steps)
        y = _fuse(graph, fuse, y, fine, fixed and [-(-side // scale) for side in fixed])
    conv, norm, project = net.head.block
    y = graph.activation(graph.conv(y, *_folded(conv, norm)), norm.slope)
    return _plain(graph, project, y)


def _fuse(graph, fuse, coarse, fine, size):
    """`Fuse`; the shift may come before the resize, whose weights add up to one."""
    conv, norm = fuse.feature_high
    weight, shift = _folded(conv, norm)
    y = graph.conv(coarse, weight, shift)
    if size:
        shape = graph.constant([1, len(weight), *size])
    else:
        shape = graph.op("Concat", graph.op("Shape", y, end=2), graph.size(fine), axis=0)
    y = graph.op("Resize", y, "", "", shape, mode="linear",
                 coordinate_transformation_mode="half_pixel")
    return graph.op("Add", graph.activation(y, norm.slope), fine)

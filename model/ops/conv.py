"""2-D convolution with PyTorch's semantics, handed straight to oneDNN or cuDNN.

Jittor's own `nn.conv2d` is a broadcast-multiply-reduce pattern that its fuser *usually* hands to
the library. When part of a graph is fetched early it may not, and then runs loops with 32-bit
indices, which end in a segmentation fault on the 9x9 kernels. Calling the library leaves nothing to
recognise. On the CPU it is called with activations in blocks of channels (see `model.ops.layout`),
which Jittor's own operators for it do not know.
"""

from __future__ import annotations

import functools

import numpy as np

from model.ops.layout import per_channel, shape_like, shape_of
from utils import runtime
from utils.runtime import jt

_ONEDNN = r"""
#include <dnnl.hpp>
#include <string>

namespace onednn {
using namespace dnnl;
using std::string;
typedef memory::format_tag tag;
typedef memory::desc desc;
const auto f32 = memory::data_type::f32;

inline engine& cpu() { static engine cpu(engine::kind::cpu, 0); return cpu; }

// N×C×H×W, or N×C/b×H×W×b.
inline desc image(jittor::NanoVector s) {
    int64_t block = s.size() == 5 ? s[4] : 1;
    memory::dims shape = {s[0], s[1] * block, s[2], s[3]};
    if (block == 1) return desc(shape, f32, tag::abcd);
    return desc(shape, f32, block == 16 ? tag::aBcd16b : block == 8 ? tag::aBcd8b : tag::acdb);
}

// O×C/groups×kh×kw.
inline desc kernel(jittor::NanoVector s, int64_t groups) {
    if (groups == 1) return desc({s[0], s[1], s[2], s[3]}, f32, tag::oihw);
    return desc({groups, s[0] / groups, s[1], s[2], s[3]}, f32, tag::goihw);
}

inline desc any(const desc& d) { return desc(d.dims(), f32, tag::any); }

// What all three operations need; `data` as given by Python.
struct Convolution {
    desc src, weights, dst;
    memory::dims strides, dilates, padding;

    template <class Data>
    Convolution(jittor::NanoVector x, jittor::NanoVector w, jittor::NanoVector y, Data& data)
        : src(image(x)), weights(kernel(w, data["groups"])), dst(image(y)),
          strides{(int)data["stride_h"], (int)data["stride_w"]},
          dilates{(int)data["dilation_h"] - 1, (int)data["dilation_w"] - 1},
          padding{(int)data["padding_h"], (int)data["padding_w"]} {}

    convolution_forward::primitive_desc forward(const desc& s, const desc& d) const {
        return {{prop_kind::forward_training, algorithm::convolution_auto, s, any(weights), d,
                 strides, dilates, padding, padding}, cpu()};
    }
    convolution_backward_data::primitive_desc backward_data(const desc& s, const desc& d) const {
        return {{algorithm::convolution_auto, s, any(weights), d, strides, dilates, padding,
                 padding}, cpu(), forward(s, d)};
    }
    convolution_backward_weights::primitive_desc backward_weights(const desc& s,
                                                                  const desc& d) const {
        return {{algorithm::convolution_auto, s, any(weights), d, strides, dilates, padding,
                 padding}, cpu(), forward(s, d)};
    }
    // A kernel for the activations as they lie, or if there is only a slow one, as it likes them.
    template <class Make>
    auto choose(Make make) const -> decltype(make(src, dst)) {
        auto found = make(src, dst);
        string name = found.impl_info_str();
        bool slow = name.compare(0, 3, "ref") == 0 || name.compare(0, 4, "gemm") == 0;
        return slow ? make(any(src), any(dst)) : found;
    }
};

// An argument of a primitive, and the caller's memory where that lies otherwise.
struct Argument {
    memory given, used;
    Argument(const desc& d, const void* data, const desc& wanted)
        : given(d, cpu(), (void*)data), used(d == wanted ? given : memory(wanted, cpu())) {}
    void read(stream& s) { if (used != given) reorder(given, used).execute(s, given, used); }
    void write(stream& s) { if (used != given) reorder(used, given).execute(s, used, given); }
};

template <class Primitive, class Description>
void run(const Description& chosen, int out, Argument target, int in1, Argument source1, int in2,
         Argument source2) {
    stream s(cpu());
    source1.read(s);
    source2.read(s);
    Primitive(chosen).execute(s, {{in1, source1.used}, {in2, source2.used}, {out, target.used}});
    target.write(s);
    s.wait();
}
}
"""

# in0, in1 → out0. Each operation names its operands by what they are to the forward one.
_FORWARD = """
onednn::Convolution c(in0->shape, in1->shape, out0->shape, data);
auto chosen = c.choose([&](const onednn::desc& s, const onednn::desc& d) {
    return c.forward(s, d); });
onednn::run<dnnl::convolution_forward>(
    chosen, DNNL_ARG_DST, {c.dst, out0_p, chosen.dst_desc()},
    DNNL_ARG_SRC, {c.src, in0_p, chosen.src_desc()},
    DNNL_ARG_WEIGHTS, {c.weights, in1_p, chosen.weights_desc()});
"""
_BACKWARD_DATA = """
onednn::Convolution c(out0->shape, in1->shape, in0->shape, data);
auto chosen = c.choose([&](const onednn::desc& s, const onednn::desc& d) {
    return c.backward_data(s, d); });
onednn::run<dnnl::convolution_backward_data>(
    chosen, DNNL_ARG_DIFF_SRC, {c.src, out0_p, chosen.diff_src_desc()},
    DNNL_ARG_DIFF_DST, {c.dst, in0_p, chosen.diff_dst_desc()},
    DNNL_ARG_WEIGHTS, {c.weights, in1_p, chosen.weights_desc()});
"""
_BACKWARD_WEIGHTS = """
onednn::Convolution c(in0->shape, out0->shape, in1->shape, data);
auto chosen = c.choose([&](const onednn::desc& s, const onednn::desc& d) {
    return c.backward_weights(s, d); });
onednn::run<dnnl::convolution_backward_weights>(
    chosen, DNNL_ARG_DIFF_WEIGHTS, {c.weights, out0_p, chosen.diff_weights_desc()},
    DNNL_ARG_SRC, {c.src, in0_p, chosen.src_desc()},
    DNNL_ARG_DIFF_DST, {c.dst, in1_p, chosen.diff_dst_desc()});
"""


@functools.cache  # finding the folder looks at the disk
def _compile_options():
    folder = runtime.onednn_folder()
    return {f"FLAGS: -I{folder}/include -L{folder}/lib -lmkldnn ": 1}


_NAMES = ("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w", "groups")


class _ConvOneDNN(jt.Function):
    """A convolution and its two gradients by oneDNN, either form of activations."""

    def __init__(self, stride, padding, dilation, groups):
        self.data = dict(zip(_NAMES, (*stride, *padding, *dilation, groups)))

    def run(self, shape, source, *inputs):
        y = jt.code(shape, "float32", list(inputs), cpu_header=_ONEDNN, cpu_src=source,
                    data=self.data)
        y.compile_options = _compile_options()
        return y

    def execute(self, x, weight):
        self.saved = x, weight
        n, _, *size = shape_of(x)
        height, width = (
            (size[i] + 2 * self.data[f"padding_{axis}"]
             - self.data[f"dilation_{axis}"] * (weight.shape[2 + i] - 1) - 1)
            // self.data[f"stride_{axis}"] + 1
            for i, axis in enumerate("hw"))
        shape = shape_like(x, n, weight.shape[0], height, width)
        return self.run(shape, _FORWARD, x, weight)

    def grad(self, dy):
        x, weight = self.saved
        return (self.run(x.shape, _BACKWARD_DATA, dy, weight),
                self.run(weight.shape, _BACKWARD_WEIGHTS, x, dy))


class _ConvCuDNN(jt.Function):
    """A convolution and its two gradients as three operators of cuDNN."""

    def __init__(self, stride, padding, dilation, groups):
        formats = ("abcd", "oihw", "abcd")  # of x, weight and y
        self.arguments = (*stride, *padding, *dilation, groups, *formats)

    def execute(self, x, weight):
        self.saved = x, weight
        return jt.cudnn.ops.cudnn_conv(x, weight, *self.arguments)

    def grad(self, dy):
        x, weight = self.saved
        ops = jt.cudnn.ops
        return (ops.cudnn_conv_backward_x(weight, dy, *x.shape[2:], *self.arguments),
                ops.cudnn_conv_backward_w(x, dy, *weight.shape[2:], *self.arguments))


WIDEST = 14  # oneDNN's fast gradients end there; taller kernels are no trouble


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _transposed(x):
    """Height and width exchanged."""
    return x.permute(0, 1, 3, 2, *range(4, x.ndim))


def conv2d(x, weight, stride=1, padding=0, dilation=1, groups=1):
    """Cross-correlation of `x` with `weight` (O×C/groups×kh×kw), without bias.

    Args:
        x: N×C×H×W, or in blocks of channels (`model.ops.layout`); the result has the same form.
        stride, padding, dilation: one number, or (vertical, horizontal).
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    if jt.flags.use_cuda and jt.cudnn is not None:
        return _ConvCuDNN(stride, padding, dilation, groups)(x, weight)
    if not jt.flags.use_cuda and jt.mkl_ops is not None:
        if weight.shape[3] <= WIDEST:
            return _ConvOneDNN(stride, padding, dilation, groups)(x, weight)
        turned = _ConvOneDNN(stride[::-1], padding[::-1], dilation[::-1], groups)
        return _transposed(turned(_transposed(x), _transposed(weight)))
    return jt.nn.conv2d(x, weight, None, stride, padding, dilation, groups)


def uniform(shape, bound):
    """A parameter drawn from U(-bound, bound) by NumPy's generator: the same on every device."""
    return jt.array(np.random.uniform(-bound, bound, shape).astype(np.float32))


class Conv2d(jt.Module):
    """A convolution layer, initialised as PyTorch's defaults do.

    Kaiming-uniform with a = √5 is U(-1/√fan_in, 1/√fan_in), for the weight and the bias alike.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True):
        kernel_size = _pair(kernel_size)
        bound = (in_channels * kernel_size[0] * kernel_size[1]) ** -0.5
        self.weight = uniform((out_channels, in_channels, *kernel_size), bound)
        self.bias = uniform((out_channels,), bound) if bias else None
        self.stride, self.padding = stride, padding

    def without_bias(self, x):
        """The convolution alone, for a batch norm that takes the bias over."""
        return conv2d(x, self.weight, self.stride, self.padding)

    def execute(self, x):
        y = self.without_bias(x)
        if self.bias is None:
            return y
        # Double for the bias's gradient, a sum over all pixels; the output is the same.
        return (y.float64() + per_channel(self.bias.float64(), y)).astype(y.dtype)

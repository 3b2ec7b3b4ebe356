// Convolutions by oneDNN, of activations in either form.
#include <dnnl.hpp>
#include <string>
#include <unordered_map>

namespace onednn {
using namespace dnnl;
using std::string;
typedef memory::format_tag tag;
typedef memory::desc desc;
typedef memory::data_type type;

inline type type_of(jittor::Var* v) {
    return v->dtype() == jittor::ns_bfloat16 ? type::bf16 : type::f32;
}

inline engine& cpu() { static engine cpu(engine::kind::cpu, 0); return cpu; }

inline int64_t channels_of(jittor::Var* v) {
    return v->shape.size() == 5 ? v->shape[1] * v->shape[4] : v->shape[1];
}

// Describes N×C×H×W, or N×C/b×H×W×b, as `images` images of `channels` channels.
inline desc image(jittor::Var* v, int64_t images, int64_t channels) {
    const auto& s = v->shape;
    const type t = type_of(v);
    int64_t block = s.size() == 5 ? s[4] : 1;
    memory::dims shape = {images, channels, s[2], s[3]};
    if (block == 1) return desc(shape, t, tag::abcd);
    return desc(shape, t, block == 16 ? tag::aBcd16b : block == 8 ? tag::aBcd8b : tag::acdb);
}

inline desc image(jittor::Var* v) { return image(v, v->shape[0], channels_of(v)); }

// True if all channels are one block. Channels-last describes that memory too.
inline bool has_one_block(jittor::Var* v) { return v->shape.size() == 5 && v->shape[1] == 1; }

inline desc channels_last(const desc& d) { return desc(d.dims(), d.data_type(), tag::acdb); }

// True for oneDNN's reference code and for its detour through matrix products.
template <class Description>
bool is_slow(const Description& found) {
    const string name = found.impl_info_str();
    return name.compare(0, 3, "ref") == 0 || name.compare(0, 4, "gemm") == 0;
}

// O×C/groups×kh×kw, always float.
inline desc kernel(jittor::Var* v, int64_t groups) {
    const auto& s = v->shape;
    if (groups == 1) return desc({s[0], s[1], s[2], s[3]}, type::f32, tag::oihw);
    return desc({groups, s[0] / groups, s[1], s[2], s[3]}, type::f32, tag::goihw);
}

inline desc any(const desc& d, type t) { return desc(d.dims(), t, tag::any); }
inline desc any(const desc& d) { return any(d, d.data_type()); }

// What forward and the two gradients need. `settings` come from Python. oneDNN rounds a kernel to the type
// of the activations; the gradient of a kernel is float32.
struct Convolution {
    desc src, weights, dst;
    memory::dims strides, dilates, padding;

    template <class Settings>
    Convolution(jittor::Var* x, jittor::Var* w, jittor::Var* y, Settings& settings)
        : src(image(x)), weights(kernel(w, settings["groups"])), dst(image(y)),
          strides{(int)settings["stride_h"], (int)settings["stride_w"]},
          dilates{(int)settings["dilation_h"] - 1, (int)settings["dilation_w"] - 1},
          padding{(int)settings["padding_h"], (int)settings["padding_w"]} {}

    convolution_forward::primitive_desc forward(const desc& s, const desc& d) const {
        return {{prop_kind::forward_training, algorithm::convolution_auto, s,
                 any(weights, s.data_type()), d, strides, dilates, padding, padding}, cpu()};
    }
    convolution_forward::primitive_desc activated(const desc& s, const desc& d, const desc& bias,
                                                  const primitive_attr& activation) const {
        return {{prop_kind::forward_inference, algorithm::convolution_auto, s,
                 any(weights, s.data_type()), bias, d, strides, dilates, padding, padding},
                activation, cpu()};
    }
    convolution_backward_data::primitive_desc backward_data(const desc& s, const desc& d) const {
        return {{algorithm::convolution_auto, s, any(weights, s.data_type()), d, strides, dilates,
                 padding, padding}, cpu(), forward(s, d)};
    }
    convolution_backward_weights::primitive_desc backward_weights(const desc& s,
                                                                  const desc& d) const {
        return {{algorithm::convolution_auto, s, any(weights), d, strides, dilates, padding,
                 padding}, cpu(), forward(s, d)};
    }
    // A 1×1 convolution with kernels per image, w: N×O×C×1×1, as one group per image.
    Convolution(jittor::Var* x, jittor::Var* w, jittor::Var* y)
        : src(image(x, 1, x->shape[0] * channels_of(x))),
          weights({x->shape[0], channels_of(y), channels_of(x), 1, 1}, type::f32, tag::goihw),
          dst(image(y, 1, x->shape[0] * channels_of(y))),
          strides{1, 1}, dilates{0, 0}, padding{0, 0} {}

    // oneDNN's code for the activations as they lie in memory. If that code is slow, a single block is
    // described as channels-last; if that is slow too, oneDNN chooses a layout and activations are copied.
    template <class Make>
    auto choose(Make make, bool in_one_block = false) const -> decltype(make(src, dst)) {
        auto found = make(src, dst);
        if (is_slow(found) && in_one_block) found = make(channels_last(src), channels_last(dst));
        return is_slow(found) ? make(any(src), any(dst)) : found;
    }
};

// An argument of a primitive: the caller's memory (`given`), and a copy in the layout that oneDNN wants
// (`used`) if that is another one.
struct Argument {
    memory given, used;
    bool moved;
    Argument(const desc& d, jittor::Var* data, const desc& wanted)
        : given(d, cpu(), data->mem_ptr),
          moved(d != wanted && !(data->shape.size() == 5 && d.dims()[1] == data->shape[4]
                                 && wanted == channels_last(d))) {
        used = moved ? memory(wanted, cpu()) : memory(wanted, cpu(), given.get_data_handle());
    }
    void read(stream& s) { if (moved) reorder(given, used).execute(s, given, used); }
    void write(stream& s) { if (moved) reorder(used, given).execute(s, used, given); }
};

template <class Primitive, class Description>
void run(const Description& chosen, int out, Argument target, int in1, Argument source1, int in2,
         Argument source2, std::unordered_map<int, memory> others = {}, bool onto = false) {
    stream s(cpu());
    if (onto) target.read(s);
    source1.read(s);
    source2.read(s);
    others.insert({{in1, source1.used}, {in2, source2.used}, {out, target.used}});
    Primitive(chosen).execute(s, others);
    target.write(s);
    s.wait();
}

// y = x * w
template <class Settings>
void forward(jittor::Var* x, jittor::Var* w, jittor::Var* y, Settings& settings) {
    Convolution c(x, w, y, settings);
    auto chosen = c.choose([&](const desc& s, const desc& d) { return c.forward(s, d); },
                           has_one_block(x) && has_one_block(y));
    run<convolution_forward>(chosen, DNNL_ARG_DST, {c.dst, y, chosen.dst_desc()},
                             DNNL_ARG_SRC, {c.src, x, chosen.src_desc()},
                             DNNL_ARG_WEIGHTS, {c.weights, w, chosen.weights_desc()});
}

// y = activation(x * w + bias), or with `onto` y = activation(y + x * w + bias).
template <class Settings>
void activated(jittor::Var* x, jittor::Var* w, jittor::Var* bias, jittor::Var* y,
               Settings& settings, bool onto = false) {
    Convolution c(x, w, y, settings);
    const desc added({bias->num}, type::f32, tag::a);
    primitive_attr attr;
    const float slope = settings["slope"];
    post_ops after;
    if (onto) after.append_sum(1);
    // oneDNN computes a slope of 0 as max(x, 0), which turns NaN into 0 and so hides a failure.
    if (slope != 1)
        after.append_eltwise(1, algorithm::eltwise_relu, slope == 0 ? 1e-30f : slope, 0);
    attr.set_post_ops(after);
    auto chosen = c.choose(
        [&](const desc& s, const desc& d) { return c.activated(s, d, added, attr); },
        has_one_block(x) && has_one_block(y));
    run<convolution_forward>(chosen, DNNL_ARG_DST, {c.dst, y, chosen.dst_desc()},
                             DNNL_ARG_SRC, {c.src, x, chosen.src_desc()},
                             DNNL_ARG_WEIGHTS, {c.weights, w, chosen.weights_desc()},
                             {{DNNL_ARG_BIAS, memory(added, cpu(), bias->mem_ptr)}}, onto);
}

// y = activation(x1 * kernels + x2 * w + bias); image n of x1 is convolved with kernels[n].
template <class Settings>
void activated_sum(jittor::Var* x1, jittor::Var* kernels, jittor::Var* x2, jittor::Var* w,
                   jittor::Var* bias, jittor::Var* y, Settings& settings) {
    Convolution c(x1, kernels, y);
    auto chosen = c.choose([&](const desc& s, const desc& d) { return c.forward(s, d); });
    run<convolution_forward>(chosen, DNNL_ARG_DST, {c.dst, y, chosen.dst_desc()},
                             DNNL_ARG_SRC, {c.src, x1, chosen.src_desc()},
                             DNNL_ARG_WEIGHTS, {c.weights, kernels, chosen.weights_desc()});
    activated(x2, w, bias, y, settings, true);
}

template <class Settings>
void backward_data(jittor::Var* dy, jittor::Var* w, jittor::Var* dx, Settings& settings) {
    Convolution c(dx, w, dy, settings);
    auto chosen = c.choose([&](const desc& s, const desc& d) { return c.backward_data(s, d); });
    run<convolution_backward_data>(chosen, DNNL_ARG_DIFF_SRC, {c.src, dx, chosen.diff_src_desc()},
                                   DNNL_ARG_DIFF_DST, {c.dst, dy, chosen.diff_dst_desc()},
                                   DNNL_ARG_WEIGHTS, {c.weights, w, chosen.weights_desc()});
}

template <class Settings>
void backward_weights(jittor::Var* x, jittor::Var* dy, jittor::Var* dw, Settings& settings) {
    Convolution c(x, dw, dy, settings);
    auto chosen = c.choose([&](const desc& s, const desc& d) { return c.backward_weights(s, d); });
    run<convolution_backward_weights>(
        chosen, DNNL_ARG_DIFF_WEIGHTS, {c.weights, dw, chosen.diff_weights_desc()},
        DNNL_ARG_SRC, {c.src, x, chosen.src_desc()},
        DNNL_ARG_DIFF_DST, {c.dst, dy, chosen.diff_dst_desc()});
}

}  // namespace onednn

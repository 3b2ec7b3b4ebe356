// Convolutions by oneDNN, of activations in either form. Needs values.h.
#include <array>
#include <dnnl.hpp>
#include <initializer_list>
#include <map>
#include <omp.h>
#include <string>
#include <unordered_map>
#include <vector>

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

// Rounds a kernel, O×C×kh×kw or G×O×C×kh×kw, to bfloat16 in oneDNN's blocks `wanted`. oneDNN's own code takes
// 50 ns per value if it has to pad the channels, as AMX wants for 16.
inline void round_kernel(const float* kernel, const desc& wanted, values::bfloat16* to) {
    const dnnl_memory_desc_t& d = wanted.data;
    const auto& blocks = d.format_desc.blocking;
    // Index `i` of an axis is stored this far from index 0.
    std::array<std::vector<int64_t>, 5> places;
    for (int axis = 0; axis < d.ndims; ++axis)
        for (int64_t i = 0; i < d.dims[axis]; ++i) {
            int64_t place = 0, step = 1, outer = i;
            for (int k = blocks.inner_nblks - 1; k >= 0; step *= blocks.inner_blks[k--])
                if (blocks.inner_idxs[k] == axis) {
                    place += outer % blocks.inner_blks[k] * step;
                    outer /= blocks.inner_blks[k];
                }
            places[5 - d.ndims + axis].push_back(place + outer * blocks.strides[axis]);
        }
    if (d.ndims == 4) places[0] = {0};
    const auto& [groups, outputs, inputs, rows, columns] = places;
    std::vector<int64_t> taps;
    for (int64_t row : rows)
        for (int64_t column : columns) taps.push_back(row + column);
    const int64_t G = groups.size(), O = outputs.size(), C = inputs.size(), T = taps.size();
    const int64_t* tap = taps.data();
    std::memset(to, 0, wanted.get_size());  // the padding
    #pragma omp parallel for
    for (int64_t i = 0; i < G * O; ++i)
        for (int64_t c = 0; c < C; ++c) {
            const float* from = kernel + (i * C + c) * T;
            values::bfloat16* start = to + groups[i / O] + outputs[i % O] + inputs[c];
            for (int64_t k = 0; k < T; ++k) values::store(start[tap[k]], from[k]);
        }
}

// An argument of a primitive: the caller's memory (`given`), and a copy in the layout that oneDNN wants
// (`used`) if that is another one.
struct Argument {
    memory given, used;
    bool moved, rounded;  // a copy is needed; of a kernel, in bfloat16
    Argument(const desc& d, jittor::Var* data, const desc& wanted)
        : given(d, cpu(), data->mem_ptr),
          moved(d != wanted && !(data->shape.size() == 5 && d.dims()[1] == data->shape[4]
                                 && wanted == channels_last(d))),
          rounded(d.data_type() == type::f32 && wanted.data_type() == type::bf16) {
        used = moved ? memory(wanted, cpu()) : memory(wanted, cpu(), given.get_data_handle());
    }
    void read(stream& s) {
        if (rounded)
            round_kernel((const float*)given.get_data_handle(), used.get_desc(),
                         (values::bfloat16*)used.get_data_handle());
        else if (moved) reorder(given, used).execute(s, given, used);
    }
    void write(stream& s) { if (moved) reorder(used, given).execute(s, used, given); }
};

// What decides how a convolution is computed.
typedef std::vector<double> Key;

inline Key key_of(std::initializer_list<jittor::Var*> operands) {
    Key key = {double(omp_get_max_threads())};
    for (jittor::Var* v : operands) {
        key.push_back(type_of(v) == type::bf16);
        for (int i = 0; i < v->shape.size(); ++i) key.push_back(v->shape[i]);
    }
    return key;
}

template <class Settings>
Key key_of(std::initializer_list<jittor::Var*> operands, Settings& settings) {
    Key key = key_of(operands);
    for (const char* name : {"stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w",
                             "groups", "slope"})
        key.push_back(settings[name]);
    return key;
}

template <class Primitive, class Description>
struct Chosen { Description description; Primitive primitive; };

// `choose()`, which takes 0.06 to 0.16 ms, is called once per key. All operators of a process share `known`.
template <class Primitive, class Choose>
auto remembered(const Key& key, Choose choose) -> const Chosen<Primitive, decltype(choose())>& {
    typedef Chosen<Primitive, decltype(choose())> Known;
    static auto& known = *new std::map<Key, Known>;  // never deleted, as oneDNN may be gone before
    auto found = known.find(key);
    if (found == known.end()) {
        if (known.size() > 200) known.clear();  // frames may have any number of sizes
        auto description = choose();
        found = known.emplace(key, Known{description, Primitive(description)}).first;
    }
    return found->second;
}

template <class Chosen>
void run(const Chosen& chosen, int out, Argument target, int in1, Argument source1, int in2,
         Argument source2, std::unordered_map<int, memory> others = {}, bool onto = false) {
    stream s(cpu());
    if (onto) target.read(s);
    source1.read(s);
    source2.read(s);
    others.insert({{in1, source1.used}, {in2, source2.used}, {out, target.used}});
    chosen.primitive.execute(s, others);
    target.write(s);
    s.wait();
}

inline void convolve(const Convolution& c, const Key& key, jittor::Var* x, jittor::Var* w, jittor::Var* y,
                     bool in_one_block = false) {
    const auto& chosen = remembered<convolution_forward>(key, [&] {
        return c.choose([&](const desc& s, const desc& d) { return c.forward(s, d); }, in_one_block);
    });
    run(chosen, DNNL_ARG_DST, {c.dst, y, chosen.description.dst_desc()},
        DNNL_ARG_SRC, {c.src, x, chosen.description.src_desc()},
        DNNL_ARG_WEIGHTS, {c.weights, w, chosen.description.weights_desc()});
}

// y = x * w
template <class Settings>
void forward(jittor::Var* x, jittor::Var* w, jittor::Var* y, Settings& settings) {
    convolve({x, w, y, settings}, key_of({x, w, y}, settings), x, w, y,
             has_one_block(x) && has_one_block(y));
}

// y = activation(x * w + bias), or with `onto` y = activation(y + x * w + bias).
template <class Settings>
void activated(jittor::Var* x, jittor::Var* w, jittor::Var* bias, jittor::Var* y,
               Settings& settings, bool onto = false) {
    Convolution c(x, w, y, settings);
    const desc added({bias->num}, type::f32, tag::a);
    Key key = key_of({x, w, y}, settings);
    key.push_back(onto);
    const auto& chosen = remembered<convolution_forward>(key, [&] {
        primitive_attr attr;
        const float slope = settings["slope"];
        post_ops after;
        if (onto) after.append_sum(1);
        // oneDNN computes a slope of 0 as max(x, 0), which turns NaN into 0 and so hides a failure.
        if (slope != 1)
            after.append_eltwise(1, algorithm::eltwise_relu, slope == 0 ? 1e-30f : slope, 0);
        attr.set_post_ops(after);
        return c.choose([&](const desc& s, const desc& d) { return c.activated(s, d, added, attr); },
                        has_one_block(x) && has_one_block(y));
    });
    run(chosen, DNNL_ARG_DST, {c.dst, y, chosen.description.dst_desc()},
        DNNL_ARG_SRC, {c.src, x, chosen.description.src_desc()},
        DNNL_ARG_WEIGHTS, {c.weights, w, chosen.description.weights_desc()},
        {{DNNL_ARG_BIAS, memory(added, cpu(), bias->mem_ptr)}}, onto);
}

// y = activation(x1 * kernels + x2 * w + bias); image n of x1 is convolved with kernels[n].
template <class Settings>
void activated_sum(jittor::Var* x1, jittor::Var* kernels, jittor::Var* x2, jittor::Var* w,
                   jittor::Var* bias, jittor::Var* y, Settings& settings) {
    convolve({x1, kernels, y}, key_of({x1, kernels, y}), x1, kernels, y);
    activated(x2, w, bias, y, settings, true);
}

template <class Settings>
void backward_data(jittor::Var* dy, jittor::Var* w, jittor::Var* dx, Settings& settings) {
    Convolution c(dx, w, dy, settings);
    const auto& chosen = remembered<convolution_backward_data>(key_of({dx, w, dy}, settings), [&] {
        return c.choose([&](const desc& s, const desc& d) { return c.backward_data(s, d); });
    });
    run(chosen, DNNL_ARG_DIFF_SRC, {c.src, dx, chosen.description.diff_src_desc()},
        DNNL_ARG_DIFF_DST, {c.dst, dy, chosen.description.diff_dst_desc()},
        DNNL_ARG_WEIGHTS, {c.weights, w, chosen.description.weights_desc()});
}

template <class Settings>
void backward_weights(jittor::Var* x, jittor::Var* dy, jittor::Var* dw, Settings& settings) {
    Convolution c(x, dw, dy, settings);
    const auto& chosen = remembered<convolution_backward_weights>(key_of({x, dw, dy}, settings), [&] {
        return c.choose([&](const desc& s, const desc& d) { return c.backward_weights(s, d); });
    });
    run(chosen, DNNL_ARG_DIFF_WEIGHTS, {c.weights, dw, chosen.description.diff_weights_desc()},
        DNNL_ARG_SRC, {c.src, x, chosen.description.src_desc()},
        DNNL_ARG_DIFF_DST, {c.dst, dy, chosen.description.diff_dst_desc()});
}

}  // namespace onednn

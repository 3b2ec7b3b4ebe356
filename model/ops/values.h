// Activations as they lie in memory, float or bfloat16, and what is computed with them.
#include <cstdint>
#include <cstring>

namespace values {

// The upper half of a float. (Jittor's own type cuts off the lower half, which pulls all values
// towards zero; here they are rounded to the nearest, of two equally near ones to the even.)
struct bfloat16 { uint16_t bits; };

inline float load(float v) { return v; }
inline float load(bfloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void store(float& to, double v) { to = v; }
inline void store(bfloat16& to, float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to.bits = (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded;  // NaN stays NaN
}

// A value that came from the same type.
inline void store_exact(float& to, float v) { to = v; }
inline void store_exact(bfloat16& to, float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    to.bits = bits >> 16;
}

// The same value, which the compiler may not know: with a slope of 0 that it knows, -Ofast would fold
// NaN * 0 into 0, and NaN has to stay.
template <class T> T hidden(T v) {
    volatile T kept = v;
    return kept;
}

}  // namespace values

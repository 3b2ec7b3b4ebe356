// Loads activations, float or bfloat16, as float, and stores results with rounding.
#include <cstdint>
#include <cstring>

namespace values {

// The upper half of a float. (Jittor's own type cuts off the lower half, which pulls all values
// towards zero. Here values are rounded to the nearest, ties to even.)
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

// Stores a value that was loaded from this type, so that nothing needs rounding.
inline void store_exact(float& to, float v) { to = v; }
inline void store_exact(bfloat16& to, float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    to.bits = bits >> 16;
}

// Hides v from the compiler: if it knew that a slope is 0, -Ofast would turn NaN·0 into 0, and NaN has
// to stay.
template <class T> T hidden(T v) {
    volatile T kept = v;
    return kept;
}

}  // namespace values

// Element types, the two 16-bit floats, and the step from a run-time dtype to a template parameter.
#pragma once

#include <bit>
#include <cstdint>

#include "check.h"

namespace ppf {

enum class DType : uint8_t { float16, bfloat16, float32, float64, int64, opaque };

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

// Levels are decided in float32. Both 16-bit types widen exactly; float64 is rounded to nearest.
inline float to_float(float x) { return x; }
inline float to_float(double x) { return static_cast<float>(x); }
inline float to_float(bfloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

inline float to_float(float16 x) {
  // Exponent and mantissa move to float32's places, still with float16's bias; a multiplication by 2^(127-15) mends the
  // bias and makes subnormals normal in the same stroke. Infinities and NaN get the full exponent instead.
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  return std::bit_cast<float>(sign | (magnitude < (0x7c00u << 13) ? finite : special));
}

// Calls f with a value of the floating type that `dtype` names.
template <class F>
decltype(auto) with_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float16:
      return f(float16{});
    case DType::bfloat16:
      return f(bfloat16{});
    case DType::float32:
      return f(float{});
    case DType::float64:
      return f(double{});
    default:
      break;
  }
  throw std::invalid_argument("x: wanted float16, bfloat16, float32 or float64");
}

}  // namespace ppf

// The two 16-bit floating-point formats, widened to float exactly.
//
// Subnormal numbers pass through integers, so that threads that flush them keep them too.
#pragma once

#include <cstdint>

#include "core/log.h"
#include "core/macros.h"

namespace prospr::core {

struct Half {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

// The type in which sums of T are kept.
template <typename T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::Type;

PROSPR_HD float widen(float value) { return value; }
PROSPR_HD double widen(double value) { return value; }

PROSPR_HD float widen(BFloat16 value) {
  return from_bits<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

PROSPR_HD float widen(Half value) {
  const std::uint32_t magnitude = value.bits & 0x7FFFu;
  const std::uint32_t sign = (value.bits & 0x8000u) << 16;
  const std::uint32_t infinite = magnitude >= 0x7C00u ? 0x7F800000u : 0;
  // The exponent's bias goes from 15 to 127.
  const std::uint32_t normal = ((magnitude << 13) + (112u << 23)) | infinite;
  const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  return from_bits<float>((magnitude < 0x0400u ? to_bits(subnormal) : normal) | sign);
}

}  // namespace prospr::core

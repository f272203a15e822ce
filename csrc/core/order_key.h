// Floats as unsigned integers of the same order, so that they can be ranked digit by digit.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/macros.h"

namespace prospr::core {

template <typename T>
struct KeyFormat;
template <>
struct KeyFormat<float> {
  using Key = std::uint32_t;
  static constexpr Key kInfinity = 0x7F800000u;  // its bits
};
template <>
struct KeyFormat<double> {
  using Key = std::uint64_t;
  static constexpr Key kInfinity = 0x7FF0000000000000u;
};
template <>
struct KeyFormat<Half> {
  using Key = std::uint16_t;
  static constexpr Key kInfinity = 0x7C00u;
};
template <>
struct KeyFormat<BFloat16> {
  using Key = std::uint16_t;
  static constexpr Key kInfinity = 0x7F80u;
};
template <typename T>
using Key = typename KeyFormat<T>::Key;

// 0 for -inf, kInfinity for both zeros, kLargestKey for +inf, and more than that for every NaN.
//
// A float is a sign and a magnitude; here it becomes their product. Integers only, so that threads
// that flush subnormal numbers rank them too.
template <typename T>
PROSPR_HD Key<T> order_key(T value) {
  constexpr int kSignBit = 8 * sizeof(T) - 1;
  Key<T> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto all_ones_if_negative = static_cast<Key<T>>(-(bits >> kSignBit));
  const auto magnitude = static_cast<Key<T>>(bits & ((Key<T>{1} << kSignBit) - 1));
  return static_cast<Key<T>>(KeyFormat<T>::kInfinity +
                             ((magnitude ^ all_ones_if_negative) - all_ones_if_negative));
}

template <typename T>
constexpr Key<T> kLargestKey = static_cast<Key<T>>(2 * KeyFormat<T>::kInfinity);

}  // namespace prospr::core

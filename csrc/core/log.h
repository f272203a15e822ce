// Logarithms of the factors that a prospect multiplies up, one weight at a time.
//
// Written without branches, so that compilers vectorise the loops around it, and without fused
// multiply-add (compile with -ffp-contract=off), so that every instruction set and every thread
// count gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "core/macros.h"

namespace prospr::core {

template <typename T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = std::uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kBias = 127;
  static constexpr Bits kMagnitudeMask = 0x7FFFFFFFu;
  static constexpr Bits kSqrtHalf = 0x3F3504F3u;       // bits of sqrt(1/2)
  static constexpr Bits kTwoToMantissa = 0x4B000000u;  // bits of 2^23
  // ln 2 in two parts; the high part has so few bits that its product with an exponent is exact.
  static constexpr float kLn2High = 0.693145751953125f;
  static constexpr float kLn2Low = 1.42860682030941723212e-6f;
  static constexpr int kSeriesTerms = 4;  // remainder z^5/11 < 2^-28 for z <= (3 - sqrt 8)^2
};

template <>
struct FloatFormat<double> {
  using Bits = std::uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kBias = 1023;
  static constexpr Bits kMagnitudeMask = 0x7FFFFFFFFFFFFFFFu;
  static constexpr Bits kSqrtHalf = 0x3FE6A09E667F3BCDu;
  static constexpr Bits kTwoToMantissa = 0x4330000000000000u;
  static constexpr double kLn2High = 0.693147180559890330187;
  static constexpr double kLn2Low = 5.497923018708371174712e-14;
  static constexpr int kSeriesTerms = 9;  // remainder z^10/21 < 2^-55
};

template <typename T>
PROSPR_HD typename FloatFormat<T>::Bits to_bits(T value) {
  typename FloatFormat<T>::Bits bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <typename T>
PROSPR_HD T from_bits(typename FloatFormat<T>::Bits bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename T>
PROSPR_HD T magnitude(T value) {
  return from_bits<T>(to_bits(value) & FloatFormat<T>::kMagnitudeMask);
}

template <typename T>
PROSPR_HD bool is_finite(T value) {
  return magnitude(value) <= std::numeric_limits<T>::max();
}

// log|a - b|, to 2.5 units in the last place if |a| >= |b| or |a| = 1; else to about a rounding of
// a - b. The difference must be 0 or normal.
//
// Where |a - b| is near 1 its rounding error e would be all there is to the logarithm, so e is
// recovered exactly and added back: log|1 - x| is -x for an x far under the machine's epsilon.
// a - b = 0 gives -inf, +-inf gives +inf, NaN gives NaN.
template <typename T>
PROSPR_HD T log_abs_difference(T a, T b) {
  using Format = FloatFormat<T>;
  using Bits = typename Format::Bits;
  constexpr Bits kOne = Format::kBias << Format::kMantissaBits;
  constexpr Bits kMantissaMask = (Bits{1} << Format::kMantissaBits) - 1;

  const T difference = a - b;
  const T rounding_error = (a - difference) - b;
  const T u = magnitude(difference);

  // u = 2^exponent * mantissa, mantissa in [sqrt(1/2), sqrt(2)).
  const Bits shifted = to_bits(u) + (kOne - Format::kSqrtHalf);
  const Bits biased_exponent = shifted >> Format::kMantissaBits;
  const T exponent = from_bits<T>(biased_exponent | Format::kTwoToMantissa) -
                     (from_bits<T>(Format::kTwoToMantissa) + T(Format::kBias));
  const T mantissa = from_bits<T>((shifted & kMantissaMask) + Format::kSqrtHalf);

  const bool near_one = biased_exponent == Format::kBias;
  const T signed_error =
      from_bits<T>(to_bits(rounding_error) ^ (to_bits(difference) & ~Format::kMagnitudeMask));
  const T f = (mantissa - T(1)) + (near_one ? signed_error : T(0));

  // log(1 + f) = 2 atanh(s) = 2s + s * series(s^2), s = f / (2 + f); and 2s = f - s f.
  const T s = f / (T(2) + f);
  const T z = s * s;
  T series = T(0);
  for (int k = Format::kSeriesTerms; k >= 1; --k) series = z * (T(2) / T(2 * k + 1) + series);
  const T half_square = T(0.5) * f * f;
  const T low = s * (half_square + series) + exponent * Format::kLn2Low;
  const T log_u = exponent * Format::kLn2High + (f - (half_square - low));

  const T of_zero = u == T(0) ? -std::numeric_limits<T>::infinity() : log_u;
  return u <= std::numeric_limits<T>::max() ? of_zero : u;
}

}  // namespace prospr::core

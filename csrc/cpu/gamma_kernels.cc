#include "cpu/gamma_kernels.h"

#include "core/gamma.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
using Bits = typename core::FloatFormat<T>::Bits;

// Whether any of many values is not finite, or negative: one to three integer instructions per
// value.
template <typename T>
struct Any {
  Bits<T> not_finite = 0;
  Bits<T> negative = 0;

  // Adding one to an exponent of all ones carries into the sign.
  void note_finiteness(T value) {
    constexpr Bits<T> kExponentOne = Bits<T>{1} << core::FloatFormat<T>::kMantissaBits;
    not_finite |= (core::to_bits(value) & core::FloatFormat<T>::kMagnitudeMask) + kExponentOne;
  }
  void note_sign(T value) { negative |= core::to_bits(value); }

  static bool holds(Bits<T> bits) { return (bits & ~core::FloatFormat<T>::kMagnitudeMask) != 0; }
};

// A block's curvature is still in the first-level cache when the signs are looked at again.
constexpr std::int64_t kBlock = 1024;

constexpr std::int64_t block_end(std::int64_t begin, std::int64_t end) {
  return end - begin < kBlock ? end : begin + kBlock;
}

// Most blocks flip no sign, and then the signs need not be written, nor (in place) even read.
template <typename T>
void flip_signs(const T* curvature, T learning_rate, const std::int8_t* sign, std::int8_t* sign_out,
                std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const bool negative = core::gamma(curvature[i], learning_rate) < 0;
    sign_out[i] = static_cast<std::int8_t>(negative ? -sign[i] : sign[i]);
  }
}

template <typename T>
void update(const GammaUpdate<T>& a, std::int64_t begin, std::int64_t end) {
  const T* const curvature = a.curvature;
  const T learning_rate = a.learning_rate;
  const T* const log_gamma = a.log_gamma;
  T* const log_gamma_out = a.log_gamma_out;
  for (std::int64_t start = begin; start < end; start = block_end(start, end)) {
    const std::int64_t stop = block_end(start, end);
    Any<T> gamma;
    PROSPR_NO_ALIAS
    for (std::int64_t i = start; i < stop; ++i) {
      gamma.note_sign(core::gamma(curvature[i], learning_rate));
      log_gamma_out[i] = log_gamma[i] + core::log_abs_gamma(curvature[i], learning_rate);
    }
    if (Any<T>::holds(gamma.negative) || a.sign_out != a.sign) {
      flip_signs(curvature, learning_rate, a.sign, a.sign_out, start, stop);
    }
  }
}

template <typename T>
bool step(const GammaStep<T>& a, std::int64_t begin, std::int64_t end) {
  T* const weight = a.weight;
  T* const log_gamma = a.log_gamma;
  const T* const gradient = a.gradient;
  const T* const curvature = a.curvature;
  const T learning_rate = a.learning_rate;
  Any<T> input;
  for (std::int64_t start = begin; start < end; start = block_end(start, end)) {
    const std::int64_t stop = block_end(start, end);
    Any<T> gamma;
    PROSPR_NO_ALIAS
    for (std::int64_t i = start; i < stop; ++i) {
      const T g = gradient[i];
      const T h = curvature[i];
      input.note_finiteness(g);
      input.note_finiteness(learning_rate * h);
      gamma.note_sign(core::gamma(h, learning_rate));
      weight[i] -= learning_rate * g;
      log_gamma[i] += core::log_abs_gamma(h, learning_rate);
    }
    if (Any<T>::holds(gamma.negative))
      flip_signs(curvature, learning_rate, a.sign, a.sign, start, stop);
  }
  return !Any<T>::holds(input.not_finite);
}

template <typename T>
bool momentum_step(const GammaMomentumStep<T>& a, std::int64_t begin, std::int64_t end) {
  T* const weight = a.weight;
  T* const velocity = a.velocity;
  T* const log_scale = a.log_scale;
  T* const p = a.p;
  T* const q = a.q;
  const T* const gradient = a.gradient;
  const T* const curvature = a.curvature;
  const T learning_rate = a.learning_rate;
  const T momentum = a.momentum;
  Any<T> input;
  PROSPR_NO_ALIAS
  for (std::int64_t i = begin; i < end; ++i) {
    const T g = gradient[i];
    const T h = curvature[i];
    input.note_finiteness(g);
    input.note_finiteness(learning_rate * h);
    const T v = momentum * velocity[i] + g;
    velocity[i] = v;
    weight[i] -= learning_rate * v;
    const core::MomentumPair<T> next =
        core::momentum_pair_step<T>({log_scale[i], p[i], q[i]}, h, learning_rate, momentum);
    log_scale[i] = next.log_scale;
    p[i] = next.p;
    q[i] = next.q;
  }
  return !Any<T>::holds(input.not_finite);
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(GammaKernels<float>, update, step, momentum_step)
PROSPR_KERNELS(GammaKernels<double>, update, step, momentum_step)

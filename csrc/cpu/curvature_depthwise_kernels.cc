#include "cpu/curvature_depthwise_kernels.h"

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
using Plan = DepthwisePlan<T>;
template <typename T>
using Sum = core::Accumulator<T>;
template <typename T>
constexpr std::int64_t kLanes = kVectorLanes<Sum<T>>;

// Lane i of to[pixels, kLanes] is channel (first + i) / multiplier of from[pixels, channels].
template <typename T>
void pack(const T* from, std::int64_t pixels, std::int64_t channels, std::int64_t first,
          std::int64_t lanes, std::int64_t multiplier, Sum<T>* to) {
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel, from += channels, to += kLanes<T>) {
    if (multiplier == 1 && lanes == kLanes<T>) {
      for (std::int64_t i = 0; i < kLanes<T>; ++i) to[i] = core::widen(from[first + i]);
    } else {
      for (std::int64_t i = 0; i < lanes; ++i) to[i] = core::widen(from[(first + i) / multiplier]);
    }
  }
}

// sums[kTaps, kLanes] += (sum over positions of input x factor)^2.
template <int kTaps, typename T>
void add_taps(const Plan<T>& plan, std::int64_t first_tap, const Sum<T>* inputs,
              const Sum<T>* factors, Sum<T>* sums) {
  std::int64_t offsets[kTaps];
  for (int k = 0; k < kTaps; ++k) offsets[k] = plan.tap_offsets[first_tap + k] * kLanes<T>;
  Vector<Sum<T>> products[kTaps] = {};
  for (std::int64_t t = 0; t < plan.positions; ++t) {
    const Vector<Sum<T>> factor = load(factors + t * kLanes<T>);
    const Sum<T>* const input = inputs + plan.position_offsets[t] * kLanes<T>;
    for (int k = 0; k < kTaps; ++k) products[k] += load(input + offsets[k]) * factor;
  }
  for (int k = 0; k < kTaps; ++k) {
    Sum<T>* const sum = sums + k * kLanes<T>;
    store(sum, load(sum) + products[k] * products[k]);
  }
}

template <typename T>
void add_taps(const Plan<T>& plan, std::int64_t first_tap, std::int64_t taps, const Sum<T>* inputs,
              const Sum<T>* factors, Sum<T>* sums) {
  switch (taps) {
    case 1:
      return add_taps<1>(plan, first_tap, inputs, factors, sums);
    case 2:
      return add_taps<2>(plan, first_tap, inputs, factors, sums);
    case 3:
      return add_taps<3>(plan, first_tap, inputs, factors, sums);
    case 4:
      return add_taps<4>(plan, first_tap, inputs, factors, sums);
    case 5:
      return add_taps<5>(plan, first_tap, inputs, factors, sums);
    case 6:
      return add_taps<6>(plan, first_tap, inputs, factors, sums);
    case 7:
      return add_taps<7>(plan, first_tap, inputs, factors, sums);
    case 8:
      return add_taps<8>(plan, first_tap, inputs, factors, sums);
    default:
      return add_taps<9>(plan, first_tap, inputs, factors, sums);
  }
}

template <typename T>
void contract_block(const Plan<T>& plan, std::int64_t first, Sum<T>* scratch) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t* const size = shape.input_size;
  const std::int64_t* const before = shape.padding_before;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t rest = outputs - first;
  const std::int64_t lanes = rest < kLanes<T> ? rest : kLanes<T>;
  const std::int64_t row = size[2] * shape.input_channels;
  Sum<T>* const inputs = scratch;
  Sum<T>* const factors = inputs + plan.padded_pixels * kLanes<T>;
  Sum<T>* const sums = factors + plan.positions * kLanes<T>;
  // The zeros around the inputs, the lanes beyond the last output, and the sums.
  const std::int64_t all = plan.padded_pixels + plan.positions + plan.taps;
  for (std::int64_t i = 0; i < all * kLanes<T>; ++i) scratch[i] = 0;

  for (std::int64_t n = 0; n < shape.samples; ++n) {
    const T* from = plan.conv.inputs + n * size[0] * size[1] * row;
    for (std::int64_t z = 0; z < size[0]; ++z) {
      for (std::int64_t y = 0; y < size[1]; ++y, from += row) {
        const std::int64_t pixel =
            ((z + before[0]) * padded_size(shape, 1) + y + before[1]) * padded_size(shape, 2) +
            before[2];
        pack(from, size[2], shape.input_channels, first, lanes, outputs / shape.input_channels,
             inputs + pixel * kLanes<T>);
      }
    }
    for (std::int64_t c = 0; c < shape.columns; ++c) {
      pack(plan.conv.factors + (c * shape.samples + n) * plan.positions * outputs, plan.positions,
           outputs, first, lanes, 1, factors);
      for (std::int64_t tap = 0; tap < plan.taps; tap += kMostTaps) {
        const std::int64_t left = plan.taps - tap;
        add_taps(plan, tap, left < kMostTaps ? left : kMostTaps, inputs, factors,
                 sums + tap * kLanes<T>);
      }
    }
  }
  for (std::int64_t tap = 0; tap < plan.taps; ++tap) {
    for (std::int64_t i = 0; i < lanes; ++i) {
      plan.conv.curvature[tap * outputs + first + i] += sums[tap * kLanes<T> + i];
    }
  }
}

template <typename T>
void contract(const Plan<T>& plan, std::int64_t begin, std::int64_t end, Sum<T>* scratch) {
  for (std::int64_t task = begin; task < end; ++task) {
    contract_block(plan, task * kLanes<T>, scratch);
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(DepthwiseKernels<float>, kLanes<float>, contract)
PROSPR_KERNELS(DepthwiseKernels<double>, kLanes<double>, contract)
PROSPR_KERNELS(DepthwiseKernels<core::Half>, kLanes<core::Half>, contract)
PROSPR_KERNELS(DepthwiseKernels<core::BFloat16>, kLanes<core::BFloat16>, contract)

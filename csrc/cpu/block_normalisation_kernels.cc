#include "cpu/block_normalisation_kernels.h"

#include <algorithm>

#include "cpu/aligned_buffer.h"
#include "cpu/block_pixel.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

// Rows whose sums stay in registers.
constexpr int kTile = 4;

template <typename T>
PROSPR_HD double total(const Pixel<T>& pixel, std::int64_t lanes) {
  T values[kBlockLanes];
  __builtin_memcpy(values, &pixel, sizeof pixel);
  double sum = 0;
  for (std::int64_t lane = 0; lane < lanes; ++lane) sum += static_cast<double>(values[lane]);
  return sum;
}

// Adds up two sums per channel: step(channel, offset of an element, sums) adds what a pixel gives.
template <typename T, typename Step>
PROSPR_HD void add_up(const BlockRows<T>& rows, double* sums, Step step) {
  const std::int64_t channels = rows.channels;
  AlignedBuffer<Pixel<T>> memory(2 * channels);
  Pixel<T>* const partial = memory.data();
  std::fill_n(partial, 2 * channels, Pixel<T>{});
  for_tiles<kTile>(0, rows.rows, [&](std::int64_t first, auto count) {
    constexpr int kCount = count;
    for (std::int64_t c = 0; c < channels; ++c) {
      Pixel<T> one = partial[2 * c];
      Pixel<T> other = partial[2 * c + 1];
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        step(c, ((first + r) * channels + c) * kBlockLanes, one, other);
      }
      partial[2 * c] = one;
      partial[2 * c + 1] = other;
    }
  });
  for (std::int64_t c = 0; c < channels; ++c) {
    sums[c] = total(partial[2 * c], rows.lanes);
    sums[channels + c] = total(partial[2 * c + 1], rows.lanes);
  }
}

template <typename T>
void moments(const BlockRows<T>& rows, double* sums) {
  add_up<T>(rows, sums, [&](std::int64_t c, std::int64_t at, Pixel<T>& one, Pixel<T>& square) {
    for (int i = 0; i < Pixel<T>::kParts; ++i) {
      const Vector<T> d = read<Vector<T>>(rows.x + at + i * kVectorLanes<T>) - rows.centre[c];
      one.parts[i] += d;
      square.parts[i] += d * d;
    }
  });
}

// The same bits wherever it is asked for, so that a gradient's ReLU is that of the output.
template <bool kResidual, typename T>
PROSPR_HD Vector<T> output(const BlockRows<T>& rows, std::int64_t c, std::int64_t at,
                           const Vector<T>& d) {
  Vector<T> y = rows.slope[c] * d + rows.level[c];
  if constexpr (kResidual) y += read<Vector<T>>(rows.residual + at);
  return y;
}

// `values` where the ReLU gives y itself.
template <typename T>
PROSPR_HD Vector<T> behind_relu(const Vector<T>& y, T ceiling, const Vector<T>& values) {
  const Vector<T> above = y > Vector<T>{} ? values : Vector<T>{};
  return y < Vector<T>{} + ceiling ? above : Vector<T>{};
}

// Calls step(channel, offset) for each vector of the rows, and writes zero behind the last sample.
template <typename T, typename Step>
PROSPR_HD void for_each(const BlockRows<T>& rows, Step step) {
  const std::int64_t channels = rows.channels;
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const std::int64_t at = (row * channels + c) * kBlockLanes;
      for (int i = 0; i < Pixel<T>::kParts; ++i) step(c, at + i * kVectorLanes<T>);
    }
  }
  if (rows.lanes == kBlockLanes) return;
  for (std::int64_t pixel = 0; pixel < rows.rows * channels; ++pixel) {
    std::fill_n(rows.result + pixel * kBlockLanes + rows.lanes, kBlockLanes - rows.lanes, T{0});
  }
}

template <bool kRelu, bool kResidual, typename T>
void norm(const BlockRows<T>& rows) {
  for_each<T>(rows, [&](std::int64_t c, std::int64_t at) {
    const Vector<T> d = read<Vector<T>>(rows.x + at) - rows.centre[c];
    Vector<T> y = output<kResidual, T>(rows, c, at, d);
    if constexpr (kRelu) {  // a NaN stays
      const Vector<T> ceiling = Vector<T>{} + rows.ceiling;
      y = y < Vector<T>{} ? Vector<T>{} : y;
      y = y > ceiling ? ceiling : y;
    }
    write(rows.result + at, y);
  });
}

template <bool kRelu, bool kResidual, typename T>
void gradient(const BlockRows<T>& rows, double* sums) {
  add_up<T>(rows, sums, [&](std::int64_t c, std::int64_t at, Pixel<T>& one, Pixel<T>& product) {
    for (int i = 0; i < Pixel<T>::kParts; ++i, at += kVectorLanes<T>) {
      const Vector<T> d = read<Vector<T>>(rows.x + at) - rows.centre[c];
      Vector<T> g = read<Vector<T>>(rows.gradient + at);
      if constexpr (kRelu) {
        g = behind_relu<T>(output<kResidual, T>(rows, c, at, d), rows.ceiling, g);
      }
      if constexpr (kResidual) write(rows.result + at, g);
      one.parts[i] += g;
      product.parts[i] += g * d;
    }
  });
}

template <bool kRelu, typename T>
void x_gradient(const BlockRows<T>& rows) {
  for_each<T>(rows, [&](std::int64_t c, std::int64_t at) {
    const Vector<T> d = read<Vector<T>>(rows.x + at) - rows.centre[c];
    Vector<T> g = read<Vector<T>>(rows.gradient + at);
    if constexpr (kRelu) g = behind_relu<T>(output<false, T>(rows, c, at, d), rows.ceiling, g);
    write(rows.result + at, rows.by_gradient[c] * g + (rows.by_d[c] * d + rows.constant[c]));
  });
}

template <typename T>
constexpr BlockNormKernels<T> kKernels = {
    moments<T>,
    {norm<false, false, T>, norm<true, false, T>, norm<true, true, T>},
    {gradient<false, false, T>, gradient<true, false, T>, gradient<true, true, T>},
    {x_gradient<false, T>, x_gradient<true, T>}};

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(BlockNormKernels<float>, kKernels<float>)
PROSPR_KERNELS(BlockNormKernels<double>, kKernels<double>)

#include "cpu/normalisation_kernels.h"

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

using Doubles = Vector<double>;

template <typename Sum, typename T>
PROSPR_HD Sum widened(const T* from) {
  if constexpr (sizeof(Sum) == sizeof(double)) {
    return *from;
  } else {
    typedef T Narrow __attribute__((vector_size(kVectorLanes<double> * sizeof(T))));
    Narrow values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Sum);
  }
}

// `kWidth` times as many channels as a Sum has lanes, from `channel` on; their sums stay in
// registers.
template <typename T, int kTensors, typename Sum, int kWidth>
PROSPR_HD void add_channels(const ChannelProducts<T>& products, std::int64_t begin,
                            std::int64_t end, std::int64_t channel, double* sums) {
  constexpr int kPairs = kTensors * (kTensors + 3) / 2;
  constexpr std::int64_t kLanes = sizeof(Sum) / sizeof(double);
  Sum total[kPairs][kWidth] = {};
  const T* at[kTensors];
  for (int i = 0; i < kTensors; ++i) {
    at[i] = products.tensors[i] + begin * products.channels + channel;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    Sum x[kTensors][kWidth];
    int pair = 0;
#pragma GCC unroll 4
    for (int i = 0; i < kTensors; ++i) {
#pragma GCC unroll 4
      for (int w = 0; w < kWidth; ++w) x[i][w] = widened<Sum>(at[i] + w * kLanes);
      at[i] += products.channels;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kTensors; ++i) {
#pragma GCC unroll 4
      for (int j = i; j < kTensors; ++j, ++pair) {
#pragma GCC unroll 4
        for (int w = 0; w < kWidth; ++w) total[pair][w] += x[i][w] * x[j][w];
      }
#pragma GCC unroll 4
      for (int w = 0; w < kWidth; ++w) total[pair][w] += x[i][w];
      ++pair;
    }
  }
  for (int pair = 0; pair < kPairs; ++pair) {
    double* const to = sums + pair * products.channels + channel;
    __builtin_memcpy(to, total[pair], sizeof total[pair]);
  }
}

template <typename T, int kTensors>
void add_rows(const ChannelProducts<T>& products, std::int64_t begin, std::int64_t end,
              double* sums) {
  constexpr std::int64_t kLanes = kVectorLanes<double>;
  std::int64_t channel = 0;
  for (; channel + 2 * kLanes <= products.channels; channel += 2 * kLanes) {
    add_channels<T, kTensors, Doubles, 2>(products, begin, end, channel, sums);
  }
  for (; channel + kLanes <= products.channels; channel += kLanes) {
    add_channels<T, kTensors, Doubles, 1>(products, begin, end, channel, sums);
  }
  for (; channel < products.channels; ++channel) {
    add_channels<T, kTensors, double, 1>(products, begin, end, channel, sums);
  }
}

template <typename T, int kTensors>
void combine_rows(const ChannelCombinations<T>& combinations, std::int64_t begin,
                  std::int64_t end) {
  const std::int64_t channels = combinations.channels;
  const std::int64_t results = static_cast<std::int64_t>(combinations.results.size());
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x[kTensors];
    for (int i = 0; i < kTensors; ++i) x[i] = combinations.tensors[i] + row * channels;
    for (std::int64_t r = 0; r < results; ++r) {
      const T* const c = combinations.coefficients + r * (kTensors + 1) * channels;
      T* const result = combinations.results[r] + row * channels;
      PROSPR_NO_ALIAS
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        T sum = c[kTensors * channels + channel];
#pragma GCC unroll 4
        for (int i = 0; i < kTensors; ++i) sum += c[i * channels + channel] * x[i][channel];
        result[channel] = sum;
      }
    }
  }
}

template <typename T>
void add_rows(const ChannelProducts<T>& products, std::int64_t begin, std::int64_t end,
              double* sums) {
  constexpr ProductsKernel<T> kOfTensors[kMostTensors] = {add_rows<T, 1>, add_rows<T, 2>,
                                                          add_rows<T, 3>};
  kOfTensors[products.tensors.size() - 1](products, begin, end, sums);
}

template <typename T>
void combine_rows(const ChannelCombinations<T>& combinations, std::int64_t begin,
                  std::int64_t end) {
  constexpr CombinationsKernel<T> kOfTensors[kMostTensors] = {
      combine_rows<T, 1>, combine_rows<T, 2>, combine_rows<T, 3>};
  kOfTensors[combinations.tensors.size() - 1](combinations, begin, end);
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(ProductsKernel<float>, add_rows<float>)
PROSPR_KERNELS(ProductsKernel<double>, add_rows<double>)
PROSPR_KERNELS(CombinationsKernel<float>, combine_rows<float>)
PROSPR_KERNELS(CombinationsKernel<double>, combine_rows<double>)

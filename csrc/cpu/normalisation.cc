#include "cpu/normalisation.h"

#include <algorithm>

#include "cpu/aligned_buffer.h"
#include "cpu/normalisation_kernels.h"

namespace prospr::cpu {
namespace {

// Elements of a tensor whose products are summed by one thread, in one go. It is part of the
// definition of the result, so it may not depend on the number of threads.
constexpr std::int64_t kBlock = 1 << 16;
// Bytes that a thread reads or writes per nanosecond.
constexpr double kSpeed = 16;

}  // namespace

template <typename T>
void run(const ChannelProducts<T>& products, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const std::int64_t channels = products.channels;
  const auto count = static_cast<std::int64_t>(products.tensors.size());
  const std::int64_t pairs = count * (count + 3) / 2;
  const std::int64_t rows = std::max<std::int64_t>(1, kBlock / channels);
  const std::int64_t blocks = (products.rows + rows - 1) / rows;
  AlignedBuffer<double> sums(blocks * pairs * channels);
  const auto kernel = dispatch<ProductsKernel<T>>(instruction_set);
  parallel_for(blocks, static_cast<double>(rows * channels * count * sizeof(T)) / kSpeed,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t block = begin; block < end; ++block) {
                   kernel(products, block * rows, std::min((block + 1) * rows, products.rows),
                          sums.data() + block * pairs * channels);
                 }
               });

  for (std::int64_t block = 1; block < blocks; ++block) {
    const double* const from = sums.data() + block * pairs * channels;
    for (std::int64_t i = 0; i < pairs * channels; ++i) sums.data()[i] += from[i];
  }
  const double* from = sums.data();
  const auto at = [&](std::int64_t i, std::int64_t j) {
    return products.products + (i * (count + 1) + j) * channels;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = i; j <= count; ++j, from += channels) {
      std::copy(from, from + channels, at(i, j));
      if (j > i) std::copy(from, from + channels, at(j, i));
    }
  }
  std::fill(at(count, count), at(count, count) + channels, static_cast<double>(products.rows));
}

template <typename T>
void run(const ChannelCombinations<T>& combinations, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const auto count = static_cast<std::int64_t>(combinations.tensors.size());
  const auto results = static_cast<std::int64_t>(combinations.results.size());
  const auto kernel = dispatch<CombinationsKernel<T>>(instruction_set);
  const auto bytes = static_cast<double>(combinations.channels * (count + results) * sizeof(T));
  parallel_for(combinations.rows, bytes / kSpeed,
               [&](std::int64_t begin, std::int64_t end) { kernel(combinations, begin, end); });
}

#define INSTANTIATE(T)                                                              \
  template void run(const ChannelProducts<T>&, InstructionSet, const ParallelFor&); \
  template void run(const ChannelCombinations<T>&, InstructionSet, const ParallelFor&)
INSTANTIATE(float);
INSTANTIATE(double);
#undef INSTANTIATE

}  // namespace prospr::cpu

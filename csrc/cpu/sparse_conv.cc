#include "cpu/sparse_conv.h"

#include <algorithm>
#include <vector>

#include "cpu/sparse_conv_kernels.h"

namespace prospr::cpu {
namespace {

// Products that a thread adds up per nanosecond.
constexpr double kSpeed = 20;

// Items that different threads can take. None where there is nothing to write: the other sizes of a
// tensor without elements may be anything.
std::int64_t sample_blocks(const SparseConvShape& shape, std::int64_t written_channels) {
  return written_channels == 0 ? 0 : (shape.samples + kSampleBlock - 1) / kSampleBlock;
}
template <typename T>
std::int64_t items_of(const SparseConvShape& shape, const SparseConv<T>&) {
  return sample_blocks(shape, shape.filters);
}
template <typename T>
std::int64_t items_of(const SparseConvShape& shape, const SparseConvInputGradient<T>&) {
  return sample_blocks(shape, shape.channels);
}
template <typename T>
std::int64_t items_of(const SparseConvShape& shape, const SparseConvFilterGradient<T>&) {
  return shape.filters;
}

std::vector<std::int64_t> offsets_of(const SparseConvShape& shape, const SparsePattern& pattern) {
  std::vector<std::int64_t> offsets(shape.weights);
  const std::int64_t row = shape.kernel_width * shape.channels;
  for (std::int64_t k = 0; k < shape.weights; ++k) {
    // The samples first: where there are none, width and channels may be of any size.
    const std::int64_t down = pattern.taps[k] / row * shape.samples;
    offsets[k] = down * shape.width * shape.channels + pattern.taps[k] % row * shape.samples;
  }
  return offsets;
}

}  // namespace

template <typename Map>
void run(const SparseConvShape& shape, const SparsePattern& pattern, const Map& map,
         InstructionSet instruction_set, const ParallelFor& parallel_for) {
  const auto kernel = dispatch<SparseConvKernel<Map>>(instruction_set);
  const std::int64_t items = items_of(shape, map);
  if (items == 0) return;
  const std::vector<std::int64_t> offsets = offsets_of(shape, pattern);
  const double products = static_cast<double>(shape.weights + shape.filters) *
                          static_cast<double>(shape.rows()) * static_cast<double>(shape.columns()) *
                          static_cast<double>(shape.samples);
  parallel_for(items, std::max(1.0, products / static_cast<double>(items) / kSpeed),
               [&](std::int64_t begin, std::int64_t end) {
                 kernel(shape, offsets.data(), pattern.splits, map, begin, end);
               });
}

#define INSTANTIATE(Map)                                                                      \
  template void run(const SparseConvShape&, const SparsePattern&, const Map&, InstructionSet, \
                    const ParallelFor&)
INSTANTIATE(SparseConv<float>);
INSTANTIATE(SparseConv<double>);
INSTANTIATE(SparseConvInputGradient<float>);
INSTANTIATE(SparseConvInputGradient<double>);
INSTANTIATE(SparseConvFilterGradient<float>);
INSTANTIATE(SparseConvFilterGradient<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

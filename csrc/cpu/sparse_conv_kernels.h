// The single-threaded loops of sparse_conv.h. sparse_conv_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"
#include "cpu/sparse_conv.h"

namespace prospr::cpu {

// Samples that a thread takes at once: whole vectors, so that how they are cut into these does not
// depend on the number of threads.
constexpr std::int64_t kSampleBlock = 64;

// Blocks [begin, end) of samples; of a SparseConvFilterGradient filters. `offsets`: how far the
// element that a weight reads is from the first one below the filter.
template <typename Map>
using SparseConvKernel = void (*)(const SparseConvShape& shape, const std::int64_t* offsets,
                                  const std::int32_t* splits, const Map& map, std::int64_t begin,
                                  std::int64_t end);

}  // namespace prospr::cpu

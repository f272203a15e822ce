// The single-threaded loops of sparse_conv.h. sparse_conv_kernels.cc is compiled once for each
// instruction set, into the namespace of that name.
#pragma once

#include <cstdint>

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

#define PROSPR_DECLARE    \
  template <typename Map> \
  SparseConvKernel<Map> sparse_conv_kernel();

namespace baseline {
PROSPR_DECLARE
}
#if defined(PROSPR_X86_64)
namespace avx2 {
PROSPR_DECLARE
}
namespace avx512 {
PROSPR_DECLARE
}
#else
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif
#undef PROSPR_DECLARE

}  // namespace prospr::cpu

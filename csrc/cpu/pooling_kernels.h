// The single-threaded loops of pooling.h. pooling_kernels.cc is compiled once for each instruction
// set, into the namespace of that name.
#pragma once

#include <cstdint>

#include "cpu/pooling.h"

namespace prospr::cpu {

// The rows [begin, end) of windows of all samples.
template <typename Map>
using PoolingKernel = void (*)(const Windows& windows, const Map& map, std::int64_t begin,
                               std::int64_t end);

#define PROSPR_DECLARE    \
  template <typename Map> \
  PoolingKernel<Map> pooling_kernel();

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

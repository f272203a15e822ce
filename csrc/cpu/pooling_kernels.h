// The single-threaded loops of pooling.h. pooling_kernels.cc is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"
#include "cpu/pooling.h"

namespace prospr::cpu {

// The rows [begin, end) of windows of all samples.
template <typename Map>
using PoolingKernel = void (*)(const Windows& windows, const Map& map, std::int64_t begin,
                               std::int64_t end);

}  // namespace prospr::cpu

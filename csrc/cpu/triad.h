// The STREAM triad, the yardstick of memory bandwidth that the benchmarks hold the kernels to.
#pragma once

#include <cstdint>

#include "cpu/parallel_for.h"

namespace prospr::cpu {

// result = a + scale * b, over `size` >= 0 elements; the arrays do not overlap.
void triad(float* result, const float* a, const float* b, float scale, std::int64_t size,
           const ParallelFor& parallel_for);

}  // namespace prospr::cpu

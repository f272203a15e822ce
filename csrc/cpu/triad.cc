#include "cpu/triad.h"

#include "core/macros.h"

namespace prospr::cpu {

void triad(float* result, const float* a, const float* b, float scale, std::int64_t size,
           const ParallelFor& parallel_for) {
  parallel_for(size, 1.0, [=](std::int64_t begin, std::int64_t end) {
    PROSPR_NO_ALIAS
    for (std::int64_t i = begin; i < end; ++i) result[i] = a[i] + scale * b[i];
  });
}

}  // namespace prospr::cpu

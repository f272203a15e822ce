// The single-threaded loops of normalisation.h. normalisation_kernels.cc is compiled once for each
// instruction set, into the namespace of that name.
#pragma once

#include <cstdint>

#include "cpu/normalisation.h"

namespace prospr::cpu {

// Sums of the rows [begin, end): for each pair of tensors i <= j, and after those with j = k - 1
// for tensor i alone, a row of channels.
template <typename T>
using ProductsKernel = void (*)(const ChannelProducts<T>& products, std::int64_t begin,
                                std::int64_t end, double* sums);

// The rows [begin, end) of all results.
template <typename T>
using CombinationsKernel = void (*)(const ChannelCombinations<T>& combinations, std::int64_t begin,
                                    std::int64_t end);

#define PROSPR_DECLARE                                     \
  template <typename T>                                    \
  ProductsKernel<T> products_kernel(std::int64_t tensors); \
  template <typename T>                                    \
  CombinationsKernel<T> combinations_kernel(std::int64_t tensors);

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

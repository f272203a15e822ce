// The single-threaded loops of normalisation.h. normalisation_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"
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

}  // namespace prospr::cpu

// How the weights of sparse convolution read images: what kernels need to know of a shape and a
// pattern. It costs more than some kernels, and is the same in each step of training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/sparse_conv_kernels.h"
#include "kernels/sparse_conv.h"

namespace prospr::cpu {

struct SparsePlan {
  SparseConvShape shape;  // as the kernels see it, which may be another of the same numbers
  std::vector<Reading> readings;
  // Of each reading, which weight each of its own is, in its order; empty for all in order.
  std::vector<std::vector<std::int32_t>> weights;
  // Of an unrolled image: how many rows each filter has, and where each weight is used, for its
  // gradient: weight k by the uses [uses_splits[k], uses_splits[k + 1]).
  std::int64_t copies = 1;
  std::vector<std::int32_t> uses_splits;
  std::vector<std::int32_t> uses;
};

// Of an image with blocks. Elements have `element` bytes.
SparsePlan plan_of(const SparseConvShape& shape, const SparsePattern& pattern, std::size_t element);
SparsePlan plan_of(const SparseConvShape& shape, const TransposedPattern& pattern,
                   std::size_t element);

}  // namespace prospr::cpu

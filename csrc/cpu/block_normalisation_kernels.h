// The single-threaded loops of block_normalisation.h. block_normalisation_kernels.cc is compiled
// once per instruction set.
#pragma once

#include <cstdint>

#include "cpu/block_normalisation.h"
#include "cpu/dispatch.h"

namespace prospr::cpu {

// Some positions of one block: tensors are [rows, channels, kBlockLanes], and per channel there are
// numbers. What is not used is null.
template <typename T>
struct BlockRows {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t lanes;  // that hold samples
  const T* x;
  const T* residual;
  const T* gradient;
  // With d = x - centre, y = slope * d + level + residual.
  const T* centre;
  const T* slope;
  const T* level;
  T ceiling;  // of the ReLU
  // x_gradient = by_gradient * the gradient + by_d * d + constant.
  const T* by_gradient;
  const T* by_d;
  const T* constant;
  T* result;
};

// Sums are [2, channels], over rows and lanes. Gradients are those behind the ReLU, if there is
// one: `sums` writes them to `result`, unless that is null.
template <typename T>
struct BlockNormKernels {
  using Sums = void (*)(const BlockRows<T>& rows, double* sums);
  using Map = void (*)(const BlockRows<T>& rows);
  Sums moments;       // of d, and of its square
  Map norm[3];        // y: plain, with a ReLU, with residual and ReLU
  Sums gradient[3];   // of the gradient, and of its product with d
  Map x_gradient[2];  // plain, with a ReLU
};

}  // namespace prospr::cpu

// Batch normalisation of blocks of samples, with the sum and the ReLU behind it, and its gradient.
//
// Tensors are [blocks, positions, channels, kBlockLanes], row-major, as in sparse_conv.h, and
// `moments` is [2, channels]: mean and (biased) variance of x per channel, in double. What lies
// behind the last sample counts for nothing, and is written as zero. No output may overlap with
// anything else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/sparse_conv.h"

namespace prospr {

struct BlockNormShape {
  std::int64_t samples;    // at least 1
  std::int64_t positions;  // at least 1
  std::int64_t channels;   // at least 1

  std::int64_t blocks() const { return blocks_of(samples); }
};

template <typename T>
struct BlockMoments {
  const T* x;
  T* mean;          // [channels]; written
  T* variance;      // [channels]; written
  double* moments;  // the same; written
};

// y = scale * (x - mean) / sqrt(variance + epsilon) + offset + residual. If there is a ReLU, zero
// where that is less, and the ceiling where it is more.
template <typename T>
struct BlockNorm {
  double epsilon;
  bool relu;
  double ceiling;  // of the ReLU, or infinity
  const T* x;
  const T* residual;  // or null; only with a ReLU
  const T* scale;     // [channels]
  const T* offset;    // [channels]
  const double* moments;
  T* y;  // written
};

template <typename T>
struct BlockNormGradient {
  double epsilon;
  bool relu;
  double ceiling;       // of the ReLU, or infinity
  const T* y_gradient;  // zero behind the last sample
  const T* x;
  const T* residual;  // or null; only with a ReLU
  const T* scale;
  const T* offset;
  const double* moments;
  T* x_gradient;         // written; through the moments too
  T* residual_gradient;  // written, unless residual is null
  T* scale_gradient;     // [channels]; written
  T* offset_gradient;    // [channels]; written
};

// Fills in the shape from those of the tensors, [blocks, ..., channels, kBlockLanes]; `per_channel`
// must be [channels], and `moments`, unless it is null, [2, channels].
std::string check_block_norm(const std::vector<NamedShape>& tensors, std::int64_t samples,
                             const std::vector<NamedShape>& per_channel, const Shape* moments,
                             BlockNormShape* shape);

}  // namespace prospr

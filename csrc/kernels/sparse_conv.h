// Convolution by the weights that are left of its filters, and its two gradients.
//
// Images are [height, width, channels, samples], row-major: samples lie side by side, so that a
// weight meets a vector of them, and the work is that of the weights there are (Park et al.,
// "Faster CNNs with Direct Sparse Convolutions and Guided Pruning", arXiv 1608.01409). The filters
// move by one and stay within the image. A dense layer is a filter of 1 x 1 on an image of 1 x 1.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/shape.h"

namespace prospr {

// The filters are a sparse matrix in compressed rows: filter f has the weights
// [splits[f], splits[f + 1]). A tap is what a weight reads, (row * kernel_width + column) *
// channels + channel of the image below the filter.
struct SparseConvShape {
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  std::int64_t samples;
  std::int64_t kernel_height;
  std::int64_t kernel_width;
  std::int64_t filters;
  std::int64_t weights;

  std::int64_t rows() const { return height - kernel_height + 1; }
  std::int64_t columns() const { return width - kernel_width + 1; }
  Shape output() const;
};

struct SparsePattern {
  const std::int32_t* taps;    // [weights]
  const std::int32_t* splits;  // [filters + 1]
};

// Reads the pattern.
std::string check(const SparseConvShape& shape, const SparsePattern& pattern);

// Fills in `shape` from the shapes of an image, which has 4 axes, and of a pattern's two vectors.
std::string check_filters(const Shape& image, const Shape& taps, const Shape& splits,
                          const SparsePattern& pattern, const Shape& kernel_size,
                          SparseConvShape* shape);

// output[r, s, f, n] = bias[f] + the sum of weights[k] image[r + row, s + column, channel, n].
template <typename T>
struct SparseConv {
  const T* image;
  const T* weights;  // [weights]
  const T* bias;     // [filters]
  T* output;         // [rows, columns, filters, samples], written
};

// The transpose of it, without the bias.
template <typename T>
struct SparseConvInputGradient {
  const T* output_gradient;
  const T* weights;
  T* image_gradient;  // written
};

// The gradients by weights and bias.
template <typename T>
struct SparseConvFilterGradient {
  const T* image;
  const T* output_gradient;
  T* weights_gradient;  // written
  T* bias_gradient;     // written
};

}  // namespace prospr

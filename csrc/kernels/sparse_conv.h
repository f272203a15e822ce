// Convolution by the weights that are left of its filters, and its two gradients.
//
// Images are [blocks, height, width, channels, kBlockLanes], row-major: the samples of a block lie
// side by side, so that a weight meets a vector of them, and the work is that of the weights there
// are (Park et al., "Faster CNNs with Direct Sparse Convolutions and Guided Pruning", arXiv
// 1608.01409). A dense layer is a filter of 1 x 1 on an image of 1 x 1.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/shape.h"

namespace prospr {

// Samples of a block.
constexpr std::int64_t kBlockLanes = 16;

// How filters move over an image; what lies around it is zero.
struct Window {
  std::int64_t kernel_height;
  std::int64_t kernel_width;
  std::int64_t stride_height;
  std::int64_t stride_width;
  std::int64_t dilation_height;
  std::int64_t dilation_width;
  bool same;  // TensorFlow's padding of that name; else none

  // What a filter spans of an image.
  std::int64_t span_height() const { return (kernel_height - 1) * dilation_height + 1; }
  std::int64_t span_width() const { return (kernel_width - 1) * dilation_width + 1; }
};

// The filters are a sparse matrix in compressed rows: filter f has the weights
// [splits[f], splits[f + 1]). A tap is what a weight reads, (row * kernel_width + column) *
// channels + channel of the image below the filter.
struct SparseConvShape {
  std::int64_t blocks;
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;
  Window window;
  std::int64_t filters;
  std::int64_t weights;

  std::int64_t rows() const;
  std::int64_t columns() const;
  // Rows of zeros above the image, and columns left of it.
  std::int64_t above() const;
  std::int64_t left() const;
  Shape image() const { return {blocks, height, width, channels, kBlockLanes}; }
  Shape output() const { return {blocks, rows(), columns(), filters, kBlockLanes}; }
};

struct SparsePattern {
  const std::int32_t* taps;    // [weights]
  const std::int32_t* splits;  // [filters + 1]
};

// The same weights by the channel that they read. Channel c has the entries
// [splits[c], splits[c + 1]): an entry is weight order[e], and its tap is (row * kernel_width +
// column) * filters + filter.
struct TransposedPattern {
  const std::int32_t* taps;    // [weights]
  const std::int32_t* splits;  // [channels + 1]
  const std::int32_t* order;   // [weights]
};

// A window's six numbers, each of them positive and 32 bits.
std::string check_window(const Shape& kernel_size, const Shape& strides, const Shape& dilations,
                         bool same, Window* window);

// Fills in `shape` from the shapes of an image, of 5 axes, and of a pattern's two vectors, and
// reads the pattern.
std::string check_filters(const Shape& image, const Shape& taps, const Shape& splits,
                          const SparsePattern& pattern, const Window& window,
                          SparseConvShape* shape);

// The same for a transposed pattern of `filters` filters.
std::string check_transposed(const Shape& image, std::int64_t filters, const Shape& taps,
                             const Shape& splits, const Shape& order,
                             const TransposedPattern& pattern, const Window& window,
                             SparseConvShape* shape);

// output[b, r, s, f] = bias[f] + the sum of weights[k] image[b, r * stride - above + row *
// dilation, s * stride - left + column * dilation, channel]. What lies behind it may come along:
// the sum is multiplied by scale[f], residual[b, r, s, f] is added, and what is negative is zero,
// what is above the ceiling the ceiling.
template <typename T>
struct SparseConv {
  using Element = T;
  SparsePattern pattern;
  const T* image;
  const T* weights;             // [weights]
  const T* bias;                // [filters]
  T* output;                    // written
  const T* scale = nullptr;     // [filters], or null
  const T* residual = nullptr;  // in the shape of the output, or null
  bool relu = false;
  T ceiling = std::numeric_limits<T>::infinity();  // of the ReLU
};

// The transpose of it, without the bias.
template <typename T>
struct SparseConvInputGradient {
  using Element = T;
  TransposedPattern pattern;
  const T* output_gradient;
  const T* weights;
  T* image_gradient;  // written
};

// The gradients by weights and bias.
template <typename T>
struct SparseConvFilterGradient {
  using Element = T;
  SparsePattern pattern;
  const T* image;
  const T* output_gradient;
  T* weights_gradient;  // written
  T* bias_gradient;     // written
};

// Blocks of samples: blocks[b, i, lane] = samples[b * kBlockLanes + lane, i], zero behind the last
// sample.
template <typename T>
struct ToBlocks {
  std::int64_t samples;
  std::int64_t size;
  const T* from;
  T* to;  // written
};

// And back.
template <typename T>
struct FromBlocks {
  std::int64_t samples;
  std::int64_t size;
  const T* from;
  T* to;  // written
};

inline std::int64_t blocks_of(std::int64_t samples) {
  return (samples + kBlockLanes - 1) / kBlockLanes;
}

}  // namespace prospr

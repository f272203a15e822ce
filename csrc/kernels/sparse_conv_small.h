// Convolution by the weights that are left of its filters, for few samples: forward only, on images
// as TensorFlow lays them, [samples, height, width, channels]. Pixels lie side by side in vectors,
// where sparse_conv.h has the samples of a block.
#pragma once

#include "kernels/sparse_conv.h"

namespace prospr {

// Fills in `shape`, whose blocks are samples here, from the shapes of an image, of 4 axes, and of a
// pattern's two vectors, and reads the pattern.
std::string check_small_filters(const Shape& image, const Shape& taps, const Shape& splits,
                                const SparsePattern& pattern, const Window& window,
                                SparseConvShape* shape);

// [samples, rows, columns, filters].
Shape small_output(const SparseConvShape& shape);

// As SparseConv, with the sums of each filter times its scale before the bias is added.
template <typename T>
struct SparseConvSmall {
  using Element = T;
  SparsePattern pattern;
  const T* image;
  const T* weights;  // [weights]
  const T* scale;    // [filters]
  const T* bias;     // [filters]
  T* output;         // written
};

}  // namespace prospr

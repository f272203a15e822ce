// The single-threaded loops of sparse_conv.h. sparse_conv_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/sparse_conv.h"

namespace prospr::cpu {

// Where the elements of a block lie.
struct Strides {
  std::int64_t row;
  std::int64_t column;
  std::int64_t channel;
  std::int64_t block;
};

// How weights read images: of a convolution the image, of its input gradient the gradient by the
// output. An image is read where it is, or from a frame of zeros that it is laid into, channels
// before columns, so that neighbours in a row lie together and no stride is a power of two.
struct Reading {
  Shape source;  // [blocks, height, width, channels, kBlockLanes]
  bool framed;
  // In the frame: rows, columns, and the place of the first pixel.
  std::int64_t frame_rows;
  std::int64_t frame_columns;
  std::int64_t above;
  std::int64_t left;
  Strides strides;  // of what is read
  // What weights read at: positions of a group of blocks, and their number in one block and in a
  // row of it. A row of positions reads `span` rows of the frame, and the next one `row_step`
  // below.
  std::int64_t group;
  std::int64_t block_positions;
  std::int64_t row_positions;
  std::int64_t row_step;
  std::int64_t span;
  bool side_by_side;  // positions of a row are kBlockLanes elements apart
  std::vector<std::int64_t> positions;
  // Where their results lie, among those of a group; the number of results of one block.
  std::vector<std::int64_t> targets;
  std::int64_t block_results;
  // The weights come in passes, each over some of the channels that they read, and in a pass row by
  // row: row r has the weights [starts[pass * rows + r], starts[pass * rows + r + 1]).
  std::int64_t passes;
  std::vector<std::int32_t> starts;
  std::vector<std::int32_t> offsets;  // of each weight
  std::vector<std::int32_t> order;    // which weight it is; empty for all in order

  std::int64_t groups() const { return (source[0] + group - 1) / group; }
  std::int64_t group_blocks(std::int64_t number) const {
    return number + 1 < groups() ? group : source[0] - number * group;
  }
  std::int64_t frame_size() const { return framed ? group * strides.block : 0; }
};

// For each group in [0, groups) x [chunk of rows], in that order, items [begin, end) of
// groups * chunks: result[target, row] = bias[row] + the sum of its weights times what they read.
template <typename T>
struct SparseProduct {
  std::int64_t rows;
  std::int64_t chunks;
  const T* source;
  const T* weights;  // in the reading's order
  const T* bias;     // or null
  T* result;         // [blocks, results, rows, kBlockLanes]
};
template <typename T>
using SparseProductKernel = void (*)(const Reading& reading, const SparseProduct<T>& product,
                                     std::int64_t begin, std::int64_t end);

// The sums over groups [first, last) of the gradients of filters [begin, end), at their places
// among all weights and all biases.
template <typename T>
using SparseFilterGradientKernel = void (*)(const Reading& reading, std::int64_t filters,
                                            const SparseConvFilterGradient<T>& map,
                                            std::int64_t first, std::int64_t last,
                                            std::int64_t begin, std::int64_t end, T* by_weights,
                                            T* by_biases);

// Blocks [begin, end).
template <typename Map>
using BlocksKernel = void (*)(const Map& map, std::int64_t begin, std::int64_t end);

}  // namespace prospr::cpu

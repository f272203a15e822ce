// The single-threaded loops of sparse_conv.h. sparse_conv_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/aligned_buffer.h"
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
  // The rows of positions of a group, which is cut along them only if it is one block.
  std::int64_t position_rows() const { return group > 1 ? 1 : block_positions / row_positions; }
  // The rows of the frame that the longest of some parts of a group reads.
  std::int64_t part_rows(std::int64_t parts) const {
    if (parts == 1) return frame_rows;
    return ((position_rows() + parts - 1) / parts - 1) * row_step + span;
  }
  std::int64_t frame_size(std::int64_t parts) const {
    if (!framed) return 0;
    return parts == 1 ? group * strides.block : part_rows(parts) * strides.row;
  }
};

// The frame of one part of a group. It is laid row by row as it is asked for, so that a row is read
// soon after it was written, and stays laid for who reads the same part next.
template <typename T>
struct Frame {
  explicit Frame(std::int64_t size) : memory(size) {}

  AlignedBuffer<T> memory;
  std::int64_t part = -1;
  std::int64_t laid = 0;  // rows
};

// For each group in [0, groups) x [part of its positions] x [chunk of rows], in that order, items
// [begin, end) of groups * parts * chunks: result[target, row] = bias[row] + the sum of its weights
// times what they read, with what comes along of SparseConv.
template <typename T>
struct SparseProduct {
  std::int64_t rows;
  std::int64_t parts;
  std::int64_t chunks;
  const T* source;
  const T* weights;  // in the reading's order
  const T* bias;     // or null
  T* result;         // [blocks, results, rows, kBlockLanes]
  const T* scale;    // or null
  const T* residual;
  bool relu;
  T ceiling;
};
template <typename T>
using SparseProductKernel = void (*)(const Reading& reading, const SparseProduct<T>& product,
                                     Frame<T>* frame, std::int64_t begin, std::int64_t end);

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

#include "cpu/sparse_plan.h"

#include <algorithm>
#include <limits>

namespace prospr::cpu {
namespace {

// Positions whose sums a kernel keeps side by side; groups of blocks have at least so many.
constexpr std::int64_t kPositions = 8;
// What a tile reads in one pass over weights stays in the first-level cache, beside what streams
// through it, if that leaves each row so many weights per pass: it reads and writes a row's sums.
constexpr double kPassBytes = 28 << 10;
constexpr double kPassWeights = 12;
// Readings of each pixel that repay laying it into a frame.
constexpr double kReads = 4;
// Pixels of images that are unrolled.
constexpr std::int64_t kUnrolled = 4;

// Where the results of positions lie: from a pixel on, some pixels apart.
struct Results {
  std::int64_t height;
  std::int64_t width;
  std::int64_t row;
  std::int64_t column;
  std::int64_t row_step;
  std::int64_t column_step;
};

// What lies where a filter reads an image of [blocks, rows, columns, channels, kBlockLanes].
void arrange(Reading* reading, std::int64_t rows, std::int64_t columns, std::int64_t stride_height,
             std::int64_t stride_width, const Results& results) {
  const std::int64_t channels = reading->source[3];
  if (reading->framed) {
    const std::int64_t channel = reading->frame_columns * kBlockLanes;
    reading->strides = {channels * channel, kBlockLanes, channel,
                        reading->frame_rows * channels * channel};
  } else {
    const std::int64_t column = channels * kBlockLanes;
    const std::int64_t row = reading->source[2] * column;
    reading->strides = {row, column, kBlockLanes, reading->source[1] * row};
  }
  reading->block_positions = rows * columns;
  reading->row_positions = columns;
  reading->row_step = stride_height;
  reading->side_by_side = stride_width * reading->strides.column == kBlockLanes;
  reading->group = std::max<std::int64_t>(
      1, std::min(reading->source[0],
                  (kPositions + reading->block_positions - 1) / reading->block_positions));
  const Strides& strides = reading->strides;
  reading->block_results = results.height * results.width;
  reading->positions.reserve(reading->group * reading->block_positions);
  reading->targets.reserve(reading->group * reading->block_positions);
  for (std::int64_t block = 0; block < reading->group; ++block) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < columns; ++column) {
        reading->positions.push_back(block * strides.block + row * stride_height * strides.row +
                                     column * stride_width * strides.column);
        reading->targets.push_back((block * results.height + results.row + row * results.row_step) *
                                       results.width +
                                   results.column + column * results.column_step);
      }
    }
  }
}

// A sparse matrix in compressed rows, whose columns are taps.
struct Matrix {
  const std::int32_t* taps;
  const std::int32_t* splits;
  std::int64_t rows;
  std::int64_t weights;
  std::int64_t kernel_size;
  std::int64_t channels;  // tap = corner * channels + channel
};

// How many passes over the weights there are, at some positions.
std::int64_t passes_of(const Matrix& matrix, const Window& window, std::size_t element,
                       std::int64_t positions) {
  if (matrix.weights == 0 || positions < kPositions) return 1;
  const auto width = static_cast<double>(window.kernel_width + kPositions - 1);
  const double lines = static_cast<double>(window.kernel_height) * width * kBlockLanes;
  const double fitting = kPassBytes / (lines * static_cast<double>(element));
  const double worth = kPassWeights * static_cast<double>(matrix.rows) *
                       static_cast<double>(matrix.channels) / static_cast<double>(matrix.weights);
  const double channels = std::max({1.0, fitting, worth});
  return std::max<std::int64_t>(
      1, static_cast<std::int64_t>(static_cast<double>(matrix.channels) / channels + 0.5));
}

// The weights of a reading; `place` gives the offset of a corner of the filters.
template <typename Place>
void set_weights(Reading* reading, const Matrix& matrix, std::int64_t passes, Place place) {
  std::vector<std::int32_t> corners(matrix.kernel_size);
  for (std::int64_t i = 0; i < matrix.kernel_size; ++i) {
    corners[i] = static_cast<std::int32_t>(place(i));
  }
  reading->passes = passes;
  reading->offsets.resize(matrix.weights);
  const auto stride = static_cast<std::int32_t>(reading->strides.channel);
  const auto count = static_cast<std::uint32_t>(matrix.channels);
  const std::int32_t* const taps = matrix.taps;
  if (passes == 1) {
    reading->starts.assign(matrix.splits, matrix.splits + matrix.rows + 1);
    if (matrix.kernel_size == 1) {
      for (std::int64_t k = 0; k < matrix.weights; ++k) reading->offsets[k] = taps[k] * stride;
      return;
    }
    for (std::int64_t k = 0; k < matrix.weights; ++k) {
      const auto tap = static_cast<std::uint32_t>(taps[k]);
      const std::uint32_t corner = tap / count;
      reading->offsets[k] =
          corners[corner] + static_cast<std::int32_t>(tap - corner * count) * stride;
    }
    return;
  }
  const std::uint32_t channels_of_pass = (count + passes - 1) / passes;
  const auto bin = [&](std::int64_t row, std::uint32_t channel) {
    return channel / channels_of_pass * matrix.rows + row;
  };
  reading->starts.assign(passes * matrix.rows + 1, 0);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t k = matrix.splits[row]; k < matrix.splits[row + 1]; ++k) {
      ++reading->starts[bin(row, static_cast<std::uint32_t>(taps[k]) % count) + 1];
    }
  }
  for (std::int64_t i = 0; i < passes * matrix.rows; ++i) {
    reading->starts[i + 1] += reading->starts[i];
  }
  std::vector<std::int32_t> next(reading->starts.begin(), reading->starts.end() - 1);
  reading->order.resize(matrix.weights);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t k = matrix.splits[row]; k < matrix.splits[row + 1]; ++k) {
      const auto tap = static_cast<std::uint32_t>(taps[k]);
      const std::uint32_t corner = tap / count;
      const std::uint32_t channel = tap - corner * count;
      const std::int32_t at = next[bin(row, channel)]++;
      reading->offsets[at] = corners[corner] + static_cast<std::int32_t>(channel) * stride;
      reading->order[at] = static_cast<std::int32_t>(k);
    }
  }
}

// Whether weights read an image so often that laying it into a frame pays, if it need not be.
bool reads_often(const SparseConvShape& shape) {
  return shape.width == kPositions &&
         static_cast<double>(shape.weights) >=
             kReads * static_cast<double>(std::max(shape.channels, shape.filters));
}

// Filters of one pixel that move by one see no rows and no columns: kPositions pixels are as good
// as an image of one row, whatever they were, and lie side by side in its frame.
SparseConvShape flattened(SparseConvShape shape) {
  const Window& window = shape.window;
  const std::int64_t pixels = shape.blocks * shape.height * shape.width;
  const double frame = static_cast<double>(std::max(shape.channels, shape.filters)) *
                       static_cast<double>(kPositions * kBlockLanes);
  if (window.kernel_height == 1 && window.kernel_width == 1 && window.stride_height == 1 &&
      window.stride_width == 1 && pixels % kPositions == 0 &&
      frame <= std::numeric_limits<std::int32_t>::max()) {
    shape.blocks = pixels / kPositions;
    shape.height = 1;
    shape.width = kPositions;
  }
  return shape;
}

// How filters read images, of elements of some bytes.
Reading of_image(const SparseConvShape& shape, const SparsePattern& pattern, std::size_t element) {
  const Window& window = shape.window;
  Reading reading;
  reading.source = shape.image();
  reading.frame_rows = (shape.rows() - 1) * window.stride_height + window.span_height();
  reading.frame_columns = (shape.columns() - 1) * window.stride_width + window.span_width();
  reading.above = shape.above();
  reading.left = shape.left();
  reading.framed = window.kernel_height * window.kernel_width > 1 || reads_often(shape);
  reading.span = window.span_height();
  arrange(&reading, shape.rows(), shape.columns(), window.stride_height, window.stride_width,
          {shape.rows(), shape.columns(), 0, 0, 1, 1});
  const Matrix matrix{pattern.taps,
                      pattern.splits,
                      shape.filters,
                      shape.weights,
                      window.kernel_height * window.kernel_width,
                      shape.channels};
  set_weights(&reading, matrix,
              passes_of(matrix, window, element, reading.source[0] * reading.block_positions),
              [&](std::int64_t corner) {
                return corner / window.kernel_width * window.dilation_height * reading.strides.row +
                       corner % window.kernel_width * window.dilation_width *
                           reading.strides.column;
              });
  return reading;
}

// Along one axis, the pixels of an image that lie `stride` apart, from `first` on: element i of a
// filter that lies on number r of them was at position r + place(i), if it ever lies there.
struct Phase {
  Phase(std::int64_t first, std::int64_t size, std::int64_t kernel, std::int64_t stride,
        std::int64_t dilation, std::int64_t before)
      : first(first),
        stride(stride),
        dilation(dilation),
        before(before),
        pixels((size - first + stride - 1) / stride) {
    for (std::int64_t i = 0; i < kernel; ++i) {
      if (!has(i)) continue;
      least = std::min(least, place(i));
      most = std::max(most, place(i));
    }
  }

  bool has(std::int64_t i) const { return (first + before - i * dilation) % stride == 0; }
  std::int64_t place(std::int64_t i) const { return (first + before - i * dilation) / stride; }

  std::int64_t first;
  std::int64_t stride;
  std::int64_t dilation;
  std::int64_t before;
  std::int64_t pixels;
  std::int64_t least = 0;
  std::int64_t most = 0;
};

// How the transposed filters read gradients by outputs, for the pixels of two phases, of which
// `matrix` has the weights.
Reading of_output(const SparseConvShape& shape, const Matrix& matrix, const Phase& rows,
                  const Phase& columns, std::size_t element) {
  const Window& window = shape.window;
  Reading reading;
  reading.source = shape.output();
  reading.span = rows.most - rows.least + 1;
  reading.frame_rows = rows.pixels - 1 + reading.span;
  reading.frame_columns = columns.pixels + columns.most - columns.least;
  reading.above = -rows.least;
  reading.left = -columns.least;
  reading.framed = window.kernel_height * window.kernel_width > 1 || rows.stride > 1 ||
                   columns.stride > 1 || reads_often(shape);
  arrange(&reading, rows.pixels, columns.pixels, 1, 1,
          {shape.height, shape.width, rows.first, columns.first, rows.stride, columns.stride});
  set_weights(&reading, matrix,
              passes_of(matrix, window, element, reading.source[0] * reading.block_positions),
              [&](std::int64_t corner) {
                return (rows.place(corner / window.kernel_width) - rows.least) *
                           reading.strides.row +
                       (columns.place(corner % window.kernel_width) - columns.least) *
                           reading.strides.column;
              });
  return reading;
}

// An image of few pixels, most of what filters read of which are zeros around it, as one pixel with
// all of its pixels' channels: each weight is there once for each position that reads a pixel by
// it.
struct Unrolled {
  SparseConvShape shape;
  std::vector<std::int32_t> taps;
  std::vector<std::int32_t> splits;
  std::vector<std::int32_t> weights;  // which each of them is
};

bool is_unrolled(const SparseConvShape& shape) {
  const std::int64_t pixels = shape.height * shape.width;
  const std::int64_t positions = shape.rows() * shape.columns();
  const double channels = static_cast<double>(pixels) * static_cast<double>(shape.channels);
  const double filters = static_cast<double>(positions) * static_cast<double>(shape.filters);
  const auto most = static_cast<double>(std::numeric_limits<std::int32_t>::max());
  return shape.window.kernel_height * shape.window.kernel_width > 1 && pixels <= kUnrolled &&
         positions <= kUnrolled && shape.blocks % kPositions == 0 &&
         static_cast<double>(shape.weights) * kUnrolled <= most &&
         std::max(channels, filters) * static_cast<double>(kPositions * kBlockLanes) <= most;
}

// Calls part(row, column, i, j, y, x): at a position, element i, j of the filters lies on pixel y,
// x.
template <typename Part>
void for_pairs(const SparseConvShape& shape, Part part) {
  const Window& window = shape.window;
  for (std::int64_t row = 0; row < shape.rows(); ++row) {
    for (std::int64_t column = 0; column < shape.columns(); ++column) {
      for (std::int64_t y = 0; y < shape.height; ++y) {
        const std::int64_t i = y + shape.above() - row * window.stride_height;
        if (i < 0 || i % window.dilation_height != 0) continue;
        if (i / window.dilation_height >= window.kernel_height) continue;
        for (std::int64_t x = 0; x < shape.width; ++x) {
          const std::int64_t j = x + shape.left() - column * window.stride_width;
          if (j < 0 || j % window.dilation_width != 0) continue;
          if (j / window.dilation_width >= window.kernel_width) continue;
          part(row * shape.columns() + column, y * shape.width + x,
               i / window.dilation_height * window.kernel_width + j / window.dilation_width);
        }
      }
    }
  }
}

// A pixel that a position reads.
struct Pair {
  std::int64_t row;     // position, or pixel of the transpose
  std::int64_t column;  // pixel, or position of the transpose
};

// The matrix of an unrolled image, or its transpose.
Unrolled unrolled(const SparseConvShape& shape, const Matrix& matrix, bool transposed) {
  const std::int64_t pixels = shape.height * shape.width;
  const std::int64_t positions = shape.rows() * shape.columns();
  std::vector<std::vector<Pair>> pairs(matrix.kernel_size);
  for_pairs(shape, [&](std::int64_t position, std::int64_t pixel, std::int64_t corner) {
    pairs[corner].push_back(transposed ? Pair{pixel, position} : Pair{position, pixel});
  });
  Unrolled result;
  const std::int64_t copies = transposed ? pixels : positions;
  result.splits.assign(copies * matrix.rows + 1, 0);
  const auto for_entries = [&](auto part) {
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      for (std::int64_t k = matrix.splits[row]; k < matrix.splits[row + 1]; ++k) {
        const std::int64_t corner = matrix.taps[k] / matrix.channels;
        for (const Pair& pair : pairs[corner]) {
          part(pair.row * matrix.rows + row, k,
               pair.column * matrix.channels + matrix.taps[k] - corner * matrix.channels);
        }
      }
    }
  };
  for_entries([&](std::int64_t row, std::int64_t, std::int64_t) { ++result.splits[row + 1]; });
  for (std::int64_t i = 0; i < copies * matrix.rows; ++i) {
    result.splits[i + 1] += result.splits[i];
  }
  std::vector<std::int32_t> next(result.splits.begin(), result.splits.end() - 1);
  result.taps.resize(result.splits.back());
  result.weights.resize(result.splits.back());
  for_entries([&](std::int64_t row, std::int64_t k, std::int64_t tap) {
    const std::int32_t at = next[row]++;
    result.taps[at] = static_cast<std::int32_t>(tap);
    result.weights[at] = static_cast<std::int32_t>(k);
  });
  result.shape = {shape.blocks,
                  1,
                  1,
                  pixels * shape.channels,
                  {1, 1, 1, 1, 1, 1, true},
                  positions * shape.filters,
                  static_cast<std::int64_t>(result.taps.size())};
  return result;
}

// Which weights those of a reading are, if those that it was made of are `which`.
std::vector<std::int32_t> composed(const Reading& reading, const std::vector<std::int32_t>& which) {
  if (which.empty()) return reading.order;
  if (reading.order.empty()) return which;
  std::vector<std::int32_t> result(reading.order.size());
  for (std::size_t k = 0; k < result.size(); ++k) result[k] = which[reading.order[k]];
  return result;
}

}  // namespace

SparsePlan plan_of(const SparseConvShape& given, const SparsePattern& pattern,
                   std::size_t element) {
  SparsePlan plan;
  if (!is_unrolled(given)) {
    plan.shape = flattened(given);
    plan.readings.push_back(of_image(plan.shape, pattern, element));
    plan.weights.push_back(plan.readings[0].order);
    return plan;
  }
  const Window& window = given.window;
  const Unrolled whole = unrolled(given,
                                  {pattern.taps, pattern.splits, given.filters, given.weights,
                                   window.kernel_height * window.kernel_width, given.channels},
                                  false);
  plan.shape = flattened(whole.shape);
  plan.copies = given.rows() * given.columns();
  plan.readings.push_back(of_image(plan.shape, {whole.taps.data(), whole.splits.data()}, element));
  plan.weights.push_back(composed(plan.readings[0], whole.weights));
  plan.uses_splits.assign(given.weights + 1, 0);
  for (const std::int32_t k : whole.weights) ++plan.uses_splits[k + 1];
  for (std::int64_t k = 0; k < given.weights; ++k) {
    plan.uses_splits[k + 1] += plan.uses_splits[k];
  }
  std::vector<std::int32_t> next(plan.uses_splits.begin(), plan.uses_splits.end() - 1);
  plan.uses.resize(whole.weights.size());
  for (std::size_t use = 0; use < whole.weights.size(); ++use) {
    plan.uses[next[whole.weights[use]]++] = static_cast<std::int32_t>(use);
  }
  return plan;
}

// Pixels that the filters' moves tell apart see different elements of them, so they are a reading
// each: nothing is multiplied with zeros between the positions.
SparsePlan plan_of(const SparseConvShape& given, const TransposedPattern& pattern,
                   std::size_t element) {
  const std::int64_t given_size = given.window.kernel_height * given.window.kernel_width;
  const Matrix all{pattern.taps,  pattern.splits, given.channels,
                   given.weights, given_size,     given.filters};
  SparsePlan plan;
  Unrolled whole;
  const bool unrolls = is_unrolled(given);
  if (unrolls) whole = unrolled(given, all, true);
  plan.shape = flattened(unrolls ? whole.shape : given);
  const SparseConvShape& shape = plan.shape;
  const Window& window = shape.window;
  const Matrix matrix =
      unrolls ? Matrix{whole.taps.data(), whole.splits.data(), shape.channels, shape.weights, 1,
                       shape.filters}
              : all;
  const bool moves = window.stride_height > 1 || window.stride_width > 1;
  std::vector<std::int32_t> taps;
  std::vector<std::int32_t> splits;
  std::vector<std::int32_t> entries;
  for (std::int64_t y = 0; y < std::min(window.stride_height, shape.height); ++y) {
    const Phase rows(y, shape.height, window.kernel_height, window.stride_height,
                     window.dilation_height, shape.above());
    for (std::int64_t x = 0; x < std::min(window.stride_width, shape.width); ++x) {
      const Phase columns(x, shape.width, window.kernel_width, window.stride_width,
                          window.dilation_width, shape.left());
      Matrix part = matrix;
      if (moves) {
        taps.clear();
        entries.clear();
        splits.assign(1, 0);
        for (std::int64_t c = 0; c < shape.channels; ++c) {
          for (std::int32_t e = matrix.splits[c]; e < matrix.splits[c + 1]; ++e) {
            const std::int64_t corner = matrix.taps[e] / shape.filters;
            if (!rows.has(corner / window.kernel_width)) continue;
            if (!columns.has(corner % window.kernel_width)) continue;
            taps.push_back(matrix.taps[e]);
            entries.push_back(e);
          }
          splits.push_back(static_cast<std::int32_t>(taps.size()));
        }
        part.taps = taps.data();
        part.splits = splits.data();
        part.weights = static_cast<std::int64_t>(taps.size());
      }
      plan.readings.push_back(of_output(shape, part, rows, columns, element));
      std::vector<std::int32_t> which = composed(plan.readings.back(), unrolls ? whole.weights
                                                                       : moves ? entries
                                                                               : taps);
      if (which.empty()) {
        which.assign(pattern.order, pattern.order + part.weights);
      } else {
        for (std::int32_t& entry : which) entry = pattern.order[entry];
      }
      plan.weights.push_back(std::move(which));
    }
  }
  return plan;
}

}  // namespace prospr::cpu

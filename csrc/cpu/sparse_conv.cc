#include "cpu/sparse_conv.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/sparse_conv_kernels.h"

namespace prospr::cpu {
namespace {

// Products that a thread adds up per nanosecond, and bytes that it moves.
constexpr double kSpeed = 16;
constexpr double kBytes = 4;
// Positions whose sums a kernel keeps side by side; groups of blocks have at least so many.
constexpr std::int64_t kPositions = 8;
// Items that a product is cut into at least, if its rows are enough.
constexpr std::int64_t kItems = 16;
// What a tile reads in one pass over weights stays in the first-level cache, beside what streams
// through it, if that leaves each row so many weights per pass: it reads and writes a row's sums.
constexpr double kPassBytes = 28 << 10;
constexpr double kPassWeights = 12;
// Readings of each pixel that repay laying it into a frame.
constexpr double kReads = 4;
// Positions that repay sorting the weights.
constexpr std::int64_t kSorted = 128;

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

// How many passes over the weights there are.
std::int64_t passes_of(const Reading& reading, const Matrix& matrix, const Window& window,
                       std::size_t element) {
  if (reading.block_positions * reading.source[0] < kSorted || matrix.weights == 0) return 1;
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
  set_weights(
      &reading, matrix, passes_of(reading, matrix, window, element), [&](std::int64_t corner) {
        return corner / window.kernel_width * window.dilation_height * reading.strides.row +
               corner % window.kernel_width * window.dilation_width * reading.strides.column;
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
  set_weights(
      &reading, matrix, passes_of(reading, matrix, window, element), [&](std::int64_t corner) {
        return (rows.place(corner / window.kernel_width) - rows.least) * reading.strides.row +
               (columns.place(corner % window.kernel_width) - columns.least) *
                   reading.strides.column;
      });
  return reading;
}

double products_of(const Reading& reading) {
  return static_cast<double>(reading.offsets.size() + 1) *
         static_cast<double>(reading.block_positions * reading.source[0] * kBlockLanes);
}

template <typename T>
void multiply(const Reading& reading, SparseProduct<T> product, InstructionSet instruction_set,
              const ParallelFor& parallel_for) {
  const std::int64_t groups = reading.groups();
  product.chunks =
      std::max<std::int64_t>(1, std::min(product.rows, (kItems + groups - 1) / groups));
  const std::int64_t items = groups * product.chunks;
  const auto kernel = dispatch<SparseProductKernel<T>>(instruction_set);
  parallel_for(items, std::max(1.0, products_of(reading) / kSpeed / static_cast<double>(items)),
               [&](std::int64_t begin, std::int64_t end) { kernel(reading, product, begin, end); });
}

template <typename T>
void run_map(const SparseConvShape& shape, const SparseConv<T>& map, InstructionSet instruction_set,
             const ParallelFor& parallel_for) {
  if (shape.blocks == 0 || shape.filters == 0) return;  // other sizes may be anything
  const Reading reading = of_image(shape, map.pattern, sizeof(T));
  std::vector<T> sorted(reading.order.size());
  for (std::size_t k = 0; k < sorted.size(); ++k) sorted[k] = map.weights[reading.order[k]];
  multiply<T>(reading,
              {shape.filters, 1, map.image, sorted.empty() ? map.weights : sorted.data(), map.bias,
               map.output},
              instruction_set, parallel_for);
}

// Pixels that the filters' moves tell apart see different elements of them, so they are a product
// each: nothing is multiplied with zeros between the positions.
template <typename T>
void run_map(const SparseConvShape& shape, const SparseConvInputGradient<T>& map,
             InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (shape.blocks == 0 || shape.channels == 0) return;
  const Window& window = shape.window;
  const bool moves = window.stride_height > 1 || window.stride_width > 1;
  const std::int64_t kernel_size = window.kernel_height * window.kernel_width;
  std::vector<std::int32_t> taps;
  std::vector<std::int32_t> splits;
  std::vector<std::int32_t> entries;
  std::vector<T> weights;
  for (std::int64_t y = 0; y < std::min(window.stride_height, shape.height); ++y) {
    const Phase rows(y, shape.height, window.kernel_height, window.stride_height,
                     window.dilation_height, shape.above());
    for (std::int64_t x = 0; x < std::min(window.stride_width, shape.width); ++x) {
      const Phase columns(x, shape.width, window.kernel_width, window.stride_width,
                          window.dilation_width, shape.left());
      Matrix matrix{map.pattern.taps, map.pattern.splits, shape.channels,
                    shape.weights,    kernel_size,        shape.filters};
      if (moves) {
        taps.clear();
        entries.clear();
        splits.assign(1, 0);
        for (std::int64_t c = 0; c < shape.channels; ++c) {
          for (std::int32_t e = map.pattern.splits[c]; e < map.pattern.splits[c + 1]; ++e) {
            const std::int64_t corner = map.pattern.taps[e] / shape.filters;
            if (!rows.has(corner / window.kernel_width)) continue;
            if (!columns.has(corner % window.kernel_width)) continue;
            taps.push_back(map.pattern.taps[e]);
            entries.push_back(e);
          }
          splits.push_back(static_cast<std::int32_t>(taps.size()));
        }
        matrix.taps = taps.data();
        matrix.splits = splits.data();
        matrix.weights = static_cast<std::int64_t>(taps.size());
      }
      const Reading reading = of_output(shape, matrix, rows, columns, sizeof(T));
      weights.resize(matrix.weights);
      for (std::int64_t k = 0; k < matrix.weights; ++k) {
        std::int64_t entry = reading.order.empty() ? k : reading.order[k];
        if (moves) entry = entries[entry];
        weights[k] = map.weights[map.pattern.order[entry]];
      }
      multiply<T>(
          reading,
          {shape.channels, 1, map.output_gradient, weights.data(), nullptr, map.image_gradient},
          instruction_set, parallel_for);
    }
  }
}

// Parts of [0, groups) that are summed on their own. They are part of the definition of the result,
// so they do not depend on the number of threads. One, where adding up the parts' sums would cost
// more than reading all images for each part of the filters.
std::int64_t parts_of(const SparseConvShape& shape, const Reading& reading) {
  const double image = static_cast<double>(shape.height) * static_cast<double>(shape.width) *
                       static_cast<double>(shape.channels) * kBlockLanes;
  const double sums = static_cast<double>(shape.weights + shape.filters);
  const double most = image * static_cast<double>(shape.blocks) / std::max(1.0, 2 * sums);
  return std::max<std::int64_t>(
      1, std::min({reading.groups(), kItems / 2, static_cast<std::int64_t>(most)}));
}

template <typename T>
void run_map(const SparseConvShape& shape, const SparseConvFilterGradient<T>& map,
             InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (shape.filters == 0) return;
  if (shape.blocks == 0) {
    std::fill_n(map.weights_gradient, shape.weights, T{0});
    std::fill_n(map.bias_gradient, shape.filters, T{0});
    return;
  }
  const Reading reading = of_image(shape, map.pattern, sizeof(T));
  const std::int64_t groups = reading.groups();
  const std::int64_t parts = parts_of(shape, reading);
  const std::int64_t chunks = std::min(shape.filters, kItems / parts);
  const std::int64_t size = shape.weights + shape.filters;
  // The first part's sums lie in the result.
  std::vector<T> sums((parts - 1) * size);
  const auto kernel = dispatch<SparseFilterGradientKernel<T>>(instruction_set);
  const std::int64_t items = parts * chunks;
  parallel_for(items, std::max(1.0, products_of(reading) / kSpeed / static_cast<double>(items)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t item = begin; item < end;) {
                   // The chunks of a part together, so that an image is laid once.
                   const std::int64_t part = item / chunks;
                   const std::int64_t next = std::min(end, (part + 1) * chunks);
                   T* by_weights = map.weights_gradient;
                   T* by_biases = map.bias_gradient;
                   if (part > 0) {
                     by_weights = sums.data() + (part - 1) * size;
                     by_biases = by_weights + shape.weights;
                   }
                   kernel(reading, shape.filters, map, groups * part / parts,
                          groups * (part + 1) / parts,
                          shape.filters * (item - part * chunks) / chunks,
                          shape.filters * (next - part * chunks) / chunks, by_weights, by_biases);
                   item = next;
                 }
               });
  for (std::int64_t part = 1; part < parts; ++part) {
    const T* const from = sums.data() + (part - 1) * size;
    for (std::int64_t k = 0; k < shape.weights; ++k) map.weights_gradient[k] += from[k];
    for (std::int64_t f = 0; f < shape.filters; ++f) {
      map.bias_gradient[f] += from[shape.weights + f];
    }
  }
}

}  // namespace

template <typename Map>
void run(const SparseConvShape& shape, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  run_map(flattened(shape), map, instruction_set, parallel_for);
}

template <typename Map>
void run(const Map& map, InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (map.size == 0 || map.samples == 0) return;
  const auto kernel = dispatch<BlocksKernel<Map>>(instruction_set);
  // A block is cut along its elements too, for small batches.
  const std::int64_t columns = (map.size + kBlockLanes - 1) / kBlockLanes;
  parallel_for(blocks_of(map.samples) * columns,
               static_cast<double>(kBlockLanes * kBlockLanes * sizeof(*map.from)) / kBytes,
               [&](std::int64_t begin, std::int64_t end) { kernel(map, begin, end); });
}

#define INSTANTIATE(Map) \
  template void run(const SparseConvShape&, const Map&, InstructionSet, const ParallelFor&)
INSTANTIATE(SparseConv<float>);
INSTANTIATE(SparseConv<double>);
INSTANTIATE(SparseConvInputGradient<float>);
INSTANTIATE(SparseConvInputGradient<double>);
INSTANTIATE(SparseConvFilterGradient<float>);
INSTANTIATE(SparseConvFilterGradient<double>);
#undef INSTANTIATE
#define INSTANTIATE(Map) template void run(const Map&, InstructionSet, const ParallelFor&)
INSTANTIATE(ToBlocks<float>);
INSTANTIATE(ToBlocks<double>);
INSTANTIATE(FromBlocks<float>);
INSTANTIATE(FromBlocks<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

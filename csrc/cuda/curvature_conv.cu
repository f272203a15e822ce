// The contraction is a matrix product, patches times factors, whose result is squared and summed
// before it leaves the registers.
//
// Its rows are the output pixels of every sample and column, one after the other; a stage is a few
// rows. A block owns a tile of (patch element, output); it gathers a stage's patches and factors
// into shared memory, the next stage's into registers meanwhile, and each thread multiplies its
// part of the tile up. At a column's last pixel the products are squared into the sums. A patch is
// never stored but for its part of a stage: its elements are found by adding offsets, with a check
// against the zeros around the image.
//
// Few pixels: sum over columns first. With T pixels, and u = t + d, going round,
//   sum_c (sum_t a_t s_ct)^2 = sum_t sum_(d <= T/2) (a_t a_u) (weight_d sum_c s_ct s_cu),
// so that the rows are pairs of pixels, the factors are those that `pair_factors` makes, and
// nothing is squared. This is cheaper while T/2 + 1 distances are fewer than columns; one pixel (a
// dense layer) is one pair.
//
// Pooled factors are multiplied with their derivative as they are gathered. Their zeros are not
// skipped: each output has them elsewhere, so what is left would be no matrix product.
#include <limits>
#include <type_traits>

#include "cuda/curvature.h"
#include "cuda/curvature_depthwise.h"
#include "cuda/curvature_pooled_factors.h"
#include "cuda/curvature_register_tile.h"
#include "cuda/curvature_slices.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

// The rows of a register tile are patch elements, its columns outputs. Warps of a block lie along
// the outputs.
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTilePatch = kWarpRows;
constexpr int kTileOutputs = kWarps * kWarpColumns;
// Between rows of shared memory, so that the threads that fill several rows use different banks.
constexpr int kGap = 8;

template <typename Sum>
constexpr int kDepth = 64 / sizeof(Sum);  // rows of a stage

constexpr int kPairThreads = 256;
constexpr std::int64_t kWantedBlocks = 1024;
constexpr std::int64_t kMostGrid = 1 << 30;
// A slice of fewer rows than these is not worth its own sums.
constexpr std::int64_t kLeastRows = 64;
constexpr std::int64_t kMostPairedPixels = 32;

// What the rows of the matrix product are.
struct Dense {};
struct Pooled {};
struct Pairs {};

// How the work is cut up; depends on shapes only.
struct Cut {
  std::int64_t pixels;        // of the output
  std::int64_t patch;         // elements of a group's patch: kernel size x channels / groups
  std::int64_t channels;      // of a group
  std::int64_t outputs;       // of a group
  bool pairs;                 //
  std::int64_t columns;       // the shape's, or distances of pairs
  std::int64_t patch_tiles;   //
  std::int64_t output_tiles;  // of a group
  std::int64_t slices;        // of samples x columns
  Windows windows;
};

template <typename T>
Cut cut_of(const ConvCurvature<T>& conv) {
  using Sum = core::Accumulator<T>;
  const ConvShape& shape = conv.shape;
  Cut cut{};
  cut.windows = windows_of(shape, conv.pooled);
  cut.pixels = shape.output_size[0] * shape.output_size[1] * shape.output_size[2];
  cut.channels = shape.input_channels / shape.groups;
  cut.outputs = shape.output_channels / shape.groups;
  cut.patch = shape.kernel_size[0] * shape.kernel_size[1] * shape.kernel_size[2] * cut.channels;
  const std::int64_t distances = cut.pixels / 2 + 1;
  cut.pairs =
      cut.pixels == 1 || (cut.pixels <= kMostPairedPixels &&
                          (shape.columns - distances) * cut.patch > distances * shape.columns);
  cut.columns = cut.pairs ? distances : shape.columns;
  cut.patch_tiles = ceil_divide(cut.patch, kTilePatch);
  cut.output_tiles = ceil_divide(cut.outputs, kTileOutputs);
  const std::int64_t terms = shape.samples * cut.columns;
  cut.slices = slices_for(kWantedBlocks, shape.groups * cut.patch_tiles * cut.output_tiles,
                          std::min(terms, ceil_divide(terms * cut.pixels, kLeastRows)),
                          cut.patch * shape.output_channels, sizeof(Sum));
  return cut;
}

// Elements of the factors of pairs, [samples, distances, pixels, output channels].
std::int64_t pair_elements(const ConvShape& shape, const Cut& cut) {
  return cut.pairs ? shape.samples * cut.columns * cut.pixels * shape.output_channels : 0;
}

// The coordinates of a pixel by its number. There are few pixels where this is asked for, so it
// takes no division of 64 bits.
__device__ void pixel_at(std::uint32_t index, const ConvShape& shape, std::uint32_t pixel[]) {
#pragma unroll
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    const auto size = static_cast<std::uint32_t>(shape.output_size[axis]);
    pixel[axis] = index % size;
    index /= size;
  }
}

// The other pixel of a pair.
__device__ std::uint32_t partner(std::int64_t pixel, std::int64_t distance, std::int64_t pixels) {
  const std::int64_t other = pixel + distance;
  return static_cast<std::uint32_t>(other < pixels ? other : other - pixels);
}

// Where the factors of a pixel of a sample and output lie, in the first column.
template <typename T>
struct PixelFactors {
  const T* values;
  core::Accumulator<T> derivative;
};

template <typename T>
__device__ PixelFactors<T> factors_at(const ConvCurvature<T>& conv, const Cut& cut,
                                      std::int64_t sample, std::uint32_t pixel,
                                      std::int64_t output) {
  const std::int64_t outputs = conv.shape.output_channels;
  const std::int64_t at = (sample * cut.pixels + pixel) * outputs + output;
  if (conv.factors != nullptr) return {conv.factors + at, 1};
  std::uint32_t coordinates[ConvShape::kAxes];
  pixel_at(pixel, conv.shape, coordinates);
  const std::int64_t row = sample * cut.windows.count + window_at(coordinates, cut.windows);
  return {conv.pooled.values + row * outputs + output, core::widen(conv.pooled.derivative[at])};
}

template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    pair_factors(ConvCurvature<T> conv, Cut cut, core::Accumulator<T>* factors) {
  using Sum = core::Accumulator<T>;
  const ConvShape& shape = conv.shape;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t size = shape.samples * cut.columns * cut.pixels * outputs;
  const std::int64_t column_stride = shape.samples * cut.windows.count * outputs;
  for (std::int64_t i = global_thread(); i < size; i += global_threads()) {
    const std::int64_t output = i % outputs;
    const std::int64_t pixel = i / outputs % cut.pixels;
    const std::int64_t distance = i / outputs / cut.pixels % cut.columns;
    const std::int64_t sample = i / outputs / cut.pixels / cut.columns;
    const PixelFactors<T> here =
        factors_at(conv, cut, sample, static_cast<std::uint32_t>(pixel), output);
    const PixelFactors<T> there =
        factors_at(conv, cut, sample, partner(pixel, distance, cut.pixels), output);
    Sum sum = 0;
    for (std::int64_t c = 0; c < shape.columns; ++c) {
      sum += core::widen(here.values[c * column_stride]) *
             core::widen(there.values[c * column_stride]);
    }
    // Half way round a pair is met from both its ends.
    const bool twice = distance > 0 && 2 * distance != cut.pixels;
    sum = pooled_factor(pooled_factor(sum, here.derivative), there.derivative);
    factors[i] = twice ? sum + sum : sum;
  }
}

// A row: an output pixel of a sample, and a column or distance.
struct Row {
  std::uint32_t pixel[ConvShape::kAxes];
  std::int64_t column;
  std::int64_t sample;
};

PROSPR_HD Row row_at(std::int64_t index, const ConvShape& shape, std::int64_t columns) {
  Row row;
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    row.pixel[axis] = static_cast<std::uint32_t>(index % shape.output_size[axis]);
    index /= shape.output_size[axis];
  }
  row.column = index % columns;
  row.sample = index / columns;
  return row;
}

// The row `step` rows on: an addition, digit by digit, as divisions would take longer than a stage.
__device__ void advance(Row& row, const Row& step, const ConvShape& shape, std::int64_t columns) {
  std::uint32_t carry = 0;
#pragma unroll
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    const auto size = static_cast<std::uint32_t>(shape.output_size[axis]);
    row.pixel[axis] += step.pixel[axis] + carry;
    carry = row.pixel[axis] >= size;
    if (carry != 0) row.pixel[axis] -= size;
  }
  row.column += step.column + carry;
  carry = row.column >= columns;
  if (carry != 0) row.column -= columns;
  row.sample += step.sample + carry;
}

// The corner of a patch in the input, where it may lie outside.
struct Corner {
  std::int32_t at[ConvShape::kAxes];
  std::int64_t offset;  // in elements, from the first channel of the group
};

__device__ Corner corner_of(const std::uint32_t pixel[], std::int64_t sample,
                            std::int64_t first_channel, const ConvShape& shape) {
  Corner corner;
  corner.offset = sample;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    corner.at[axis] =
        static_cast<std::int32_t>(pixel[axis] * shape.strides[axis] - shape.padding_before[axis]);
    corner.offset = corner.offset * shape.input_size[axis] + corner.at[axis];
  }
  corner.offset = corner.offset * shape.input_channels + first_channel;
  return corner;
}

// An element of a patch, from its corner.
struct Tap {
  std::int64_t offset;
  std::int32_t at[ConvShape::kAxes];
};

__device__ Tap tap_at(std::int64_t element, const ConvShape& shape, std::int64_t channels) {
  Tap tap;
  const std::int64_t channel = element % channels;
  std::int64_t rest = element / channels;
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    tap.at[axis] =
        static_cast<std::int32_t>(rest % shape.kernel_size[axis] * shape.dilations[axis]);
    rest /= shape.kernel_size[axis];
  }
  tap.offset = tap.at[0];
  for (int axis = 1; axis < ConvShape::kAxes; ++axis) {
    tap.offset = tap.offset * shape.input_size[axis] + tap.at[axis];
  }
  tap.offset = tap.offset * shape.input_channels + channel;
  return tap;
}

template <typename T>
__device__ core::Accumulator<T> input_at(const ConvCurvature<T>& conv, const Corner& corner,
                                         const Tap& tap) {
  bool inside = true;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    // A negative coordinate is a very large one without its sign.
    inside = inside && static_cast<std::uint32_t>(corner.at[axis] + tap.at[axis]) <
                           static_cast<std::uint32_t>(conv.shape.input_size[axis]);
  }
  return inside ? core::widen(conv.inputs[corner.offset + tap.offset]) : core::Accumulator<T>(0);
}

// `step` is a stage's rows; `factors` are the convolution's, of windows if it has pooled ones, or
// those of pairs. `sums_out` is the curvature, added to, where there is one slice, else [slices,
// patch, output channels].
template <typename Rows, typename T, typename Factor>
__global__ void __launch_bounds__(kThreads)
    contract(ConvCurvature<T> conv, Cut cut, Row step, const Factor* factors,
             core::Accumulator<T>* sums_out) {
  using Sum = core::Accumulator<T>;
  constexpr bool kPooled = std::is_same_v<Rows, Pooled>;
  constexpr bool kPairs = std::is_same_v<Rows, Pairs>;
  constexpr int kRows = kDepth<Sum>;
  // How threads share a row when they fill it.
  constexpr int kFillThreads = kThreads / kRows;
  constexpr int kFillPatch = kTilePatch / kFillThreads;
  constexpr int kFillOutputs = kTileOutputs / kFillThreads;

  alignas(16) __shared__ Sum patches[2][kRows][kTilePatch + kGap];
  alignas(16) __shared__ Sum columns[2][kRows][kTileOutputs + kGap];
  __shared__ Tap taps[kTilePatch];

  const ConvShape& shape = conv.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int fill_row = thread / kFillThreads;
  const int fill_first = thread % kFillThreads;
  const int lane = thread % 32;
  const int warp_outputs = thread / 32 * kWarpColumns;

  const std::int64_t terms = shape.samples * cut.columns;
  const std::int64_t tasks = cut.slices * shape.groups * cut.output_tiles * cut.patch_tiles;
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::int64_t first_element = task % cut.patch_tiles * kTilePatch;
    const std::int64_t first_output = task / cut.patch_tiles % cut.output_tiles * kTileOutputs;
    const std::int64_t group = task / cut.patch_tiles / cut.output_tiles % shape.groups;
    const std::int64_t slice = task / cut.patch_tiles / cut.output_tiles / shape.groups;
    const std::int64_t first_term = terms * slice / cut.slices;
    const std::int64_t rows = (terms * (slice + 1) / cut.slices - first_term) * cut.pixels;
    const auto elements =
        static_cast<int>(std::min<std::int64_t>(kTilePatch, cut.patch - first_element));
    const auto outputs =
        static_cast<int>(std::min<std::int64_t>(kTileOutputs, cut.outputs - first_output));

    for (int k = thread; k < elements; k += kThreads) {
      taps[k] = tap_at(first_element + k, shape, cut.channels);
    }
    __syncthreads();

    // The stage that is on its way into shared memory.
    Sum next_patches[kFillPatch];
    Sum next_columns[kFillOutputs];
    std::int64_t next_index = fill_row;
    Row next = row_at(first_term * cut.pixels + fill_row, shape, cut.columns);
    const auto gather = [&] {
      const bool exists = next_index < rows;
      const std::int64_t pixel = pixel_index(next.pixel, shape);
      const Corner corner = corner_of(next.pixel, next.sample, group * cut.channels, shape);
      Corner other{};
      if (kPairs) {
        std::uint32_t at[ConvShape::kAxes];
        pixel_at(partner(pixel, next.column, cut.pixels), shape, at);
        other = corner_of(at, next.sample, group * cut.channels, shape);
      }
#pragma unroll
      for (int i = 0; i < kFillPatch; ++i) {
        const int k = fill_first + i * kFillThreads;
        Sum value = 0;
        if (exists && k < elements) {
          const Tap tap = taps[k];
          value = input_at(conv, corner, tap);
          if (kPairs) value *= input_at(conv, other, tap);
        }
        next_patches[i] = value;
      }
      const std::int64_t term = kPairs ? next.sample * cut.columns + next.column
                                       : next.column * shape.samples + next.sample;
      const std::int64_t row = kPooled
                                   ? term * cut.windows.count + window_at(next.pixel, cut.windows)
                                   : term * cut.pixels + pixel;
      const std::int64_t column = group * cut.outputs + first_output;
      const Factor* const from = factors + row * shape.output_channels + column;
      const std::int64_t derivative =
          (next.sample * cut.pixels + pixel) * shape.output_channels + column;
#pragma unroll
      for (int i = 0; i < kFillOutputs; ++i) {
        const int o = fill_first + i * kFillThreads;
        Sum value = 0;
        if (exists && o < outputs) {
          value = core::widen(from[o]);
          if (kPooled) {
            value = pooled_factor(value, core::widen(conv.pooled.derivative[derivative + o]));
          }
        }
        next_columns[i] = value;
      }
      advance(next, step, shape, cut.columns);
      next_index += kRows;
    };
    const auto fill = [&](int buffer) {
#pragma unroll
      for (int i = 0; i < kFillPatch; ++i) {
        patches[buffer][fill_row][fill_first + i * kFillThreads] = next_patches[i];
      }
#pragma unroll
      for (int i = 0; i < kFillOutputs; ++i) {
        columns[buffer][fill_row][fill_first + i * kFillThreads] = next_columns[i];
      }
    };

    Sum products[kThreadRows][kThreadColumns] = {};
    Sum sums[kThreadRows][kThreadColumns] = {};
    std::int64_t pixels_left = cut.pixels;
    const bool in_use = warp_outputs < outputs;
    gather();
    fill(0);
    __syncthreads();
    for (std::int64_t row = 0; row < rows; row += kRows) {
      const int buffer = static_cast<int>(row / kRows % 2);
      if (row + kRows < rows) gather();
      if (in_use) {
#pragma unroll 4
        for (int r = 0; r < kRows; ++r) {
          add_products(patches[buffer][r], columns[buffer][r] + warp_outputs, lane, products);
          if (!kPairs && --pixels_left == 0) {
            pixels_left = cut.pixels;
#pragma unroll
            for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
              for (int o = 0; o < kThreadColumns; ++o) {
                sums[i][o] += products[i][o] * products[i][o];
                products[i][o] = 0;
              }
            }
          }
        }
      }
      if (row + kRows < rows) fill(1 - buffer);
      __syncthreads();
    }

    Sum* const to = sums_out + (slice * cut.patch + first_element) * shape.output_channels +
                    group * cut.outputs + first_output;
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const int k = tile_row(lane, i);
#pragma unroll
      for (int o = 0; o < kThreadColumns; ++o) {
        const int output = warp_outputs + tile_column(lane, o);
        if (k >= elements || output >= outputs) continue;
        // Pairs may have cancelled to just below zero.
        Sum sum = kPairs ? products[i][o] : sums[i][o];
        if (kPairs && sum < 0) sum = 0;
        Sum& result = to[k * shape.output_channels + output];
        result = cut.slices == 1 ? result + sum : sum;
      }
    }
  }
}

template <typename Rows, typename T, typename Factor>
std::string launch_contract(const ConvCurvature<T>& conv, const Cut& cut, const Factor* factors,
                            core::Accumulator<T>* sums, Stream stream) {
  const std::int64_t tasks = cut.slices * conv.shape.groups * cut.output_tiles * cut.patch_tiles;
  return launch("conv_curvature", contract<Rows, T, Factor>,
                static_cast<unsigned>(std::min(tasks, kMostGrid)), kThreads, stream, conv, cut,
                row_at(kDepth<core::Accumulator<T>>, conv.shape, cut.columns), factors, sums);
}

// Pooled factors take the way of all groups.
template <typename T>
bool takes_depthwise(const ConvCurvature<T>& conv) {
  return is_depthwise(conv.shape) && conv.factors != nullptr;
}

}  // namespace

std::string check_limits(const ConvShape& shape) {
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    const std::int64_t size = padded_size(shape, axis);
    if (size > std::numeric_limits<std::int32_t>::max()) {
      return "a spatial axis has " + std::to_string(size) +
             " elements with its padding; on a GPU they must be at most " +
             std::to_string(std::numeric_limits<std::int32_t>::max());
    }
  }
  return "";
}

template <typename T>
std::int64_t scratch_bytes(const ConvCurvature<T>& conv) {
  if (takes_depthwise(conv)) return depthwise_scratch_bytes<T>(conv.shape);
  const Cut cut = cut_of(conv);
  return (pair_elements(conv.shape, cut) +
          apart(cut.slices, cut.patch * conv.shape.output_channels)) *
         static_cast<std::int64_t>(sizeof(core::Accumulator<T>));
}

template <typename T>
std::string run(const ConvCurvature<T>& conv, void* scratch, Stream stream) {
  using Sum = core::Accumulator<T>;
  if (takes_depthwise(conv)) return run_depthwise(conv, scratch, stream);
  const Cut cut = cut_of(conv);
  const std::int64_t pairs = pair_elements(conv.shape, cut);
  Sum* const factors = static_cast<Sum*>(scratch);
  Sum* const sums = cut.slices == 1 ? conv.curvature : factors + pairs;
  std::string wrong;
  if (cut.pairs) {
    wrong = launch("pair_factors", pair_factors<T>, blocks_for(pairs, kPairThreads), kPairThreads,
                   stream, conv, cut, factors);
    if (wrong.empty()) {
      wrong = launch_contract<Pairs>(conv, cut, static_cast<const Sum*>(factors), sums, stream);
    }
  } else if (conv.factors != nullptr) {
    wrong = launch_contract<Dense>(conv, cut, conv.factors, sums, stream);
  } else {
    wrong = launch_contract<Pooled>(conv, cut, conv.pooled.values, sums, stream);
  }
  if (!wrong.empty()) return wrong;
  return add_slices(sums, cut.slices, cut.patch * conv.shape.output_channels, conv.curvature,
                    stream);
}

#define INSTANTIATE(T)                                          \
  template std::int64_t scratch_bytes(const ConvCurvature<T>&); \
  template std::string run(const ConvCurvature<T>&, void*, Stream)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(core::Half);
INSTANTIATE(core::BFloat16);
#undef INSTANTIATE

}  // namespace prospr::cuda

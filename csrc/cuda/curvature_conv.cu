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
#include "cuda/curvature_patches.h"
#include "cuda/curvature_pooled_factors.h"
#include "cuda/curvature_register_tile.h"
#include "cuda/curvature_slices.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

// Warps of a block lie along the outputs.
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileOutputs = kWarps * kWarpColumns;

// Rows of a stage, and how many threads fill one of them: each moves packs of 16 bytes of shared
// memory, which together are kSpan elements.
template <typename Sum>
constexpr int kDepth = 64 / sizeof(Sum);
template <typename Sum>
constexpr int kFillThreads = kThreads / kDepth<Sum>;
template <typename Sum>
constexpr int kPack = 16 / sizeof(Sum);
constexpr int kSpan = 32;
static_assert(kFillThreads<float> * kPack<float> == kSpan);
static_assert(kFillThreads<double> * kPack<double> == kSpan);
static_assert(kSpan == kHalfRows, "patches of few elements take half a tile");

template <typename T, int kLanes>
struct alignas(kLanes * sizeof(T)) Pack {
  T values[kLanes];
};

constexpr int kPairThreads = 256;
constexpr std::int64_t kMostGrid = 1 << 30;
// Slices fill the GPU if they have at least so many rows each, and even out the work of its
// multiprocessors if they have so many that their own sums hardly matter.
constexpr std::int64_t kBlocksThatFill = 600;
constexpr std::int64_t kLeastRows = 64;
constexpr std::int64_t kBlocksThatBalance = 2048;
constexpr std::int64_t kManyRows = 384;
constexpr std::int64_t kMostPairedPixels = 32;

// What the rows of the matrix product are.
struct Dense {};
struct Pooled {};
struct Pairs {};

// How the work is cut up; but for the packs, which change no result, it depends on shapes only.
struct Cut {
  std::int64_t pixels;         // of the output
  std::int64_t patch;          // elements of a group's patch: kernel size x channels / groups
  std::int64_t channels;       // of a group
  std::int64_t outputs;        // of a group
  bool pairs;                  //
  std::int64_t columns;        // the shape's, or distances of pairs
  std::int64_t joint;          // columns side by side in a tile, if their outputs fit it
  std::int64_t column_groups;  //
  bool half_tiles;             // of patch elements
  std::int64_t patch_tiles;    //
  std::int64_t output_tiles;   // of a group
  std::int64_t slices;         // of samples x column groups
  std::int64_t tasks;          // tiles x slices
  bool packed_patches;         // whether they are read by packs
  bool packed_factors;         //
  Windows windows;
};

// Whether elements at multiples of `count` can be read by packs.
template <typename T>
bool fits_packs(const T* from, std::int64_t count) {
  constexpr int kLanes = kPack<core::Accumulator<T>>;
  return count % kLanes == 0 && reinterpret_cast<std::uintptr_t>(from) % (kLanes * sizeof(T)) == 0;
}

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
  cut.joint = 1;
  if (!cut.pairs && 2 * cut.outputs <= kTileOutputs) {
    // As few groups as possible, of about the same size.
    cut.joint = ceil_divide(cut.columns, ceil_divide(cut.columns, kTileOutputs / cut.outputs));
  }
  cut.column_groups = ceil_divide(cut.columns, cut.joint);
  cut.half_tiles = cut.patch <= kHalfRows;
  cut.patch_tiles = ceil_divide(cut.patch, kWarpRows);
  cut.output_tiles = ceil_divide(cut.outputs, kTileOutputs);
  const std::int64_t tiles = shape.groups * cut.patch_tiles * cut.output_tiles;
  const std::int64_t terms = shape.samples * cut.column_groups;
  const auto slices_of = [&](std::int64_t blocks, std::int64_t rows) {
    return slices_for(blocks, tiles, std::min(terms, ceil_divide(terms * cut.pixels, rows)),
                      cut.patch * shape.output_channels, sizeof(Sum));
  };
  cut.slices =
      std::max(slices_of(kBlocksThatFill, kLeastRows), slices_of(kBlocksThatBalance, kManyRows));
  cut.tasks = tiles * cut.slices;
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
#pragma unroll 8
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

// What a row of the matrix product reads.
struct alignas(16) Source {
  Corner corner;         // of its patch; one of another pixel for the other of a pair
  std::int64_t factors;  // where they lie, in elements from those of the first column's
  std::int32_t used;     // factors of the tile: none where there is no such row
};

// The elements of a tile that a thread moves when it fills a row: packs `i` of `first + i *
// threads`. `slot` is where a table has what element `e` of pack `i` needs, so that threads side by
// side read neighbours.
template <typename Sum>
__device__ int slot_of(int element, int elements) {
  return element % kPack<Sum> * (elements / kPack<Sum>)+element / kPack<Sum>;
}

// Blocks that share a multiprocessor's registers: four where a thread's sums allow it without
// keeping anything in memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kMostBlocksOfDense = 3;
#else
constexpr int kMostBlocksOfDense = 4;
#endif
template <typename Rows, int kHalves, typename Sum>
constexpr int kBlocksOf = sizeof(Sum) == 8                              ? 2
                          : kHalves == 1 || std::is_same_v<Rows, Pairs> ? 4
                          : std::is_same_v<Rows, Dense>                 ? kMostBlocksOfDense
                                                                        : 3;

// What a block owns at a time: elements of a patch and outputs, for some of the terms.
struct Tile {
  std::int64_t task;
  std::int64_t first_element;
  std::int64_t first_output;  // of all groups
  std::int64_t group;
  std::int64_t slice;
  std::int64_t first_row;
  std::int64_t rows;
  int elements;
  int outputs;
  int used;  // outputs of all columns side by side
};

__device__ Tile tile_at(std::int64_t task, const Cut& cut, const ConvShape& shape,
                        std::int64_t tile_patch) {
  Tile tile;
  tile.task = task;
  tile.first_element = task % cut.patch_tiles * tile_patch;
  const std::int64_t first_output = task / cut.patch_tiles % cut.output_tiles * kTileOutputs;
  tile.group = task / cut.patch_tiles / cut.output_tiles % shape.groups;
  tile.slice = task / cut.patch_tiles / cut.output_tiles / shape.groups;
  tile.first_output = tile.group * cut.outputs + first_output;
  const std::int64_t terms = shape.samples * cut.column_groups;
  const std::int64_t first_term = terms * tile.slice / cut.slices;
  const std::int64_t last_term = terms * (tile.slice + 1) / cut.slices;
  tile.first_row = first_term * cut.pixels;
  tile.rows = (last_term - first_term) * cut.pixels;
  tile.elements = static_cast<int>(std::min(tile_patch, cut.patch - tile.first_element));
  tile.outputs = static_cast<int>(std::min<std::int64_t>(kTileOutputs, cut.outputs - first_output));
  tile.used = static_cast<int>(cut.joint) * tile.outputs;
  return tile;
}

// `step` is a block's rows; `factors` are the convolution's, of windows if it has pooled ones, or
// those of pairs. `sums_out` is the curvature, added to, where there is one slice, else [slices,
// patch, output channels].
template <typename Rows, int kHalves, typename T, typename Factor>
__global__ void __launch_bounds__(kThreads, (kBlocksOf<Rows, kHalves, core::Accumulator<T>>))
    contract(ConvCurvature<T> conv, Cut cut, Row step, const Factor* factors,
             core::Accumulator<T>* sums_out) {
  using Sum = core::Accumulator<T>;
  constexpr bool kPooled = std::is_same_v<Rows, Pooled>;
  constexpr bool kPairs = std::is_same_v<Rows, Pairs>;
  constexpr int kRows = kDepth<Sum>;
  constexpr int kThreadsOfRow = kFillThreads<Sum>;
  constexpr int kLanes = kPack<Sum>;
  constexpr int kTilePatch = kHalves * kHalfRows;
  constexpr int kOutputSpans = kTileOutputs / kSpan;
  // A thread finds what one row reads, so many stages ahead.
  constexpr int kStagesFound = kThreads / kRows;

  alignas(16) __shared__ Sum patches[2][kRows][kTilePatch];
  alignas(16) __shared__ Sum columns[2][kRows][kTileOutputs];
  __shared__ Tile tile;
  __shared__ Source sources[2][kThreads];
  __shared__ Row found_rows[kThreads];  // each thread's own, to spare its registers
  __shared__ Corner partners[2][kPairs ? kThreads : 1];
  __shared__ std::int64_t derivatives[2][kPooled ? kThreads : 1];
  // Of a tile's elements and outputs, in the order of slot_of.
  __shared__ Tap taps[kTilePatch];
  __shared__ std::int64_t factor_offsets[kTileOutputs];
  __shared__ std::int64_t derivative_offsets[kPooled ? kTileOutputs : 1];

  const ConvShape& shape = conv.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int fill_row = thread / kThreadsOfRow;
  const int fill_first = thread % kThreadsOfRow;
  const int lane = thread % 32;
  const int warp_outputs = thread / 32 * kWarpColumns;

  const std::int64_t column_stride =
      kPairs ? 0 : shape.samples * cut.windows.count * shape.output_channels;
  for (std::int64_t task = blockIdx.x; task < cut.tasks;) {
    if (thread == 0) tile = tile_at(task, cut, conv.shape, kTilePatch);
    __syncthreads();
    const std::int64_t rows = tile.rows;
    for (int k = thread; k < kTilePatch; k += kThreads) {
      Tap tap{};
      if (k < tile.elements) {
        tap = tap_at(tile.first_element + k, shape, cut.channels);
      } else {
        tap.at[kTapNowhere] = kNowhere;
      }
      taps[slot_of<Sum>(k, kTilePatch)] = tap;
    }
    for (int v = thread; v < kTileOutputs; v += kThreads) {
      const int slot = slot_of<Sum>(v, kTileOutputs);
      const std::int64_t output = tile.first_output + v % tile.outputs;
      factor_offsets[slot] = v / tile.outputs * column_stride + output;
      if (kPooled) derivative_offsets[slot] = output;
    }

    // Finds what the next rows read, one per thread.
    // `left` is how many rows there are from the first of them.
    found_rows[thread] = row_at(tile.first_row + thread, shape, cut.column_groups);
    const auto find = [&](int buffer, std::int64_t left) {
      Row found = found_rows[thread];
      const std::int64_t pixel = pixel_index(found.pixel, shape);
      const std::int64_t first_column = found.column * cut.joint;
      Source source;
      source.corner = corner_of(found.pixel, found.sample, tile.group * cut.channels, shape);
      const std::int64_t term = kPairs ? found.sample * cut.columns + first_column
                                       : first_column * shape.samples + found.sample;
      const std::int64_t row = kPooled
                                   ? term * cut.windows.count + window_at(found.pixel, cut.windows)
                                   : term * cut.pixels + pixel;
      source.factors = row * shape.output_channels;
      source.used =
          tile.outputs * static_cast<int>(std::min(cut.joint, cut.columns - first_column));
      if (kPooled) {
        derivatives[buffer][thread] = (found.sample * cut.pixels + pixel) * shape.output_channels;
      }
      if (kPairs) {
        std::uint32_t at[ConvShape::kAxes];
        pixel_at(partner(pixel, found.column, cut.pixels), shape, at);
        partners[buffer][thread] = corner_of(at, found.sample, tile.group * cut.channels, shape);
      }
      if (thread >= left) {
        source.used = 0;
        source.corner.at[kCornerNowhere] = kNowhere;
        if (kPairs) partners[buffer][thread].at[kCornerNowhere] = kNowhere;
      }
      sources[buffer][thread] = source;
      advance(found, step, shape, cut.column_groups);
      found_rows[thread] = found;
    };
    find(0, rows);
    __syncthreads();

    // The stage that is on its way into shared memory: as it was read, so that nothing waits for
    // it before the products of the one before it. What is not read stays zero.
    Pack<T, kLanes> next_patches[kHalves] = {};
    Pack<T, kLanes> next_partners[kPairs ? kHalves : 1] = {};
    Pack<Factor, kLanes> next_columns[kOutputSpans] = {};
    Pack<T, kLanes> next_derivatives[kPooled ? kOutputSpans : 1] = {};
    const auto gather = [&](unsigned stage) {
      const int buffer = static_cast<int>(stage / kStagesFound % 2);
      const int index = static_cast<int>(stage % kStagesFound) * kRows + fill_row;
      const Source source = sources[buffer][index];
      const auto gather_patch = [&](const Corner& corner, Pack<T, kLanes>* into) {
        const T* const from = conv.inputs + corner.offset;
#pragma unroll
        for (int i = 0; i < kHalves; ++i) {
          if (i * kSpan >= tile.elements) break;
          const int first = fill_first + i * kThreadsOfRow;
          if (cut.packed_patches) {
            const Tap tap = taps[first];
            into[i] = {};
            if (is_inside(corner, tap, shape)) {
              into[i] = *reinterpret_cast<const Pack<T, kLanes>*>(from + tap.offset);
            }
          } else {
#pragma unroll
            for (int e = 0; e < kLanes; ++e) {
              const Tap tap = taps[e * (kTilePatch / kLanes) + first];
              into[i].values[e] = {};
              if (is_inside(corner, tap, shape)) into[i].values[e] = from[tap.offset];
            }
          }
        }
      };
      gather_patch(source.corner, next_patches);
      if constexpr (kPairs) gather_patch(partners[buffer][index], next_partners);
      const auto gather_factors = [&](const auto* from, const std::int64_t* offsets, auto* into) {
        using Value = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
#pragma unroll
        for (int i = 0; i < kOutputSpans; ++i) {
          if (i * kSpan >= tile.used) break;
          const int first = fill_first + i * kThreadsOfRow;
          if (cut.packed_factors) {
            into[i] = {};
            if (first * kLanes < source.used) {
              into[i] = *reinterpret_cast<const Pack<Value, kLanes>*>(from + offsets[first]);
            }
          } else {
#pragma unroll
            for (int e = 0; e < kLanes; ++e) {
              into[i].values[e] = {};
              if (first * kLanes + e < source.used) {
                into[i].values[e] = from[offsets[e * (kTileOutputs / kLanes) + first]];
              }
            }
          }
        }
      };
      gather_factors(factors + source.factors, factor_offsets, next_columns);
      if constexpr (kPooled) {
        gather_factors(conv.pooled.derivative + derivatives[buffer][index], derivative_offsets,
                       next_derivatives);
      }
    };
    const auto fill = [&](int buffer) {
      using Filled = Pack<Sum, kLanes>;
#pragma unroll
      for (int i = 0; i < kHalves; ++i) {
        Filled filled;
#pragma unroll
        for (int e = 0; e < kLanes; ++e) {
          filled.values[e] = core::widen(next_patches[i].values[e]);
          if constexpr (kPairs) filled.values[e] *= core::widen(next_partners[i].values[e]);
        }
        Sum* const to = patches[buffer][fill_row] + (fill_first + i * kThreadsOfRow) * kLanes;
        *reinterpret_cast<Filled*>(to) = filled;
      }
#pragma unroll
      for (int i = 0; i < kOutputSpans; ++i) {
        Filled filled;
#pragma unroll
        for (int e = 0; e < kLanes; ++e) {
          filled.values[e] = core::widen(next_columns[i].values[e]);
          if constexpr (kPooled) {
            filled.values[e] =
                pooled_factor(filled.values[e], core::widen(next_derivatives[i].values[e]));
          }
        }
        Sum* const to = columns[buffer][fill_row] + (fill_first + i * kThreadsOfRow) * kLanes;
        *reinterpret_cast<Filled*>(to) = filled;
      }
    };

    constexpr int kThreadPatch = kHalves * kNeighbours;
    Sum products[kThreadPatch][kThreadColumns] = {};
    Sum sums[kThreadPatch][kThreadColumns] = {};
    std::int64_t end = cut.pixels;  // of the pixels of a column, from the stage's first row
    const bool in_use = warp_outputs < tile.used;
    gather(0);
    fill(0);
    if (rows > kThreads) find(1, rows - kThreads);
    __syncthreads();
    unsigned stage = 0;
    for (std::int64_t left = tile.rows; left > 0; left -= kRows, ++stage) {
      const int buffer = static_cast<int>(stage % 2);
      const bool more = left > kRows;
      if (more) gather(stage + 1);
      if (in_use) {
        if constexpr (kPairs) {
#pragma unroll 4
          for (int r = 0; r < kRows; ++r) {
            add_products(patches[buffer][r], columns[buffer][r] + warp_outputs, lane, products);
          }
        } else {
          int r = 0;
          while (r < kRows) {
            const auto until = static_cast<int>(std::min<std::int64_t>(kRows, end));
#pragma unroll 4
            for (; r < until; ++r) {
              add_products(patches[buffer][r], columns[buffer][r] + warp_outputs, lane, products);
            }
            if (r != end) break;
            end += cut.pixels;
#pragma unroll
            for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
              for (int o = 0; o < kThreadColumns; ++o) {
                sums[i][o] += products[i][o] * products[i][o];
                products[i][o] = 0;
              }
            }
          }
          end -= kRows;
        }
      }
      if (more) {
        fill(1 - buffer);
        // The rows that were found last have been begun: those after the next.
        if ((stage + 1) % kStagesFound == 0 && left > kRows + kThreads) {
          find(static_cast<int>((stage + 1) / kStagesFound + 1) % 2, left - kRows - kThreads);
        }
      }
      __syncthreads();
    }

    Sum* const to = sums_out +
                    (tile.slice * cut.patch + tile.first_element) * shape.output_channels +
                    tile.first_output;
    const int elements = tile.elements;
    const int outputs = tile.outputs;
    if (cut.joint == 1) {
      const auto at = [&](int i, int o) {
        return tile_row(lane, i) * shape.output_channels + warp_outputs + tile_column(lane, o);
      };
      const auto is_there = [&](int i, int o) {
        return tile_row(lane, i) < elements && warp_outputs + tile_column(lane, o) < outputs;
      };
#pragma unroll
      for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
        for (int o = 0; o < kThreadColumns; ++o) {
          // Pairs may have cancelled to just below zero; those of a slice, which need not be all
          // of a sample's, to far below it (add_slices has all).
          if (kPairs) {
            sums[i][o] = cut.slices == 1 && products[i][o] < 0 ? Sum(0) : products[i][o];
          }
        }
      }
      if (cut.slices == 1) {
        // All are read before the first is written: one after the other took longer than the rest.
        Sum before[kThreadPatch][kThreadColumns] = {};
#pragma unroll
        for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
          for (int o = 0; o < kThreadColumns; ++o) {
            if (is_there(i, o)) before[i][o] = to[at(i, o)];
          }
        }
#pragma unroll
        for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
          for (int o = 0; o < kThreadColumns; ++o) sums[i][o] += before[i][o];
        }
      }
#pragma unroll
      for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
        for (int o = 0; o < kThreadColumns; ++o) {
          if (is_there(i, o)) to[at(i, o)] = sums[i][o];
        }
      }
    } else {
      // Adds up the columns side by side, for one row of each thread at a time.
      constexpr int kLaneRows = kHalfRows / kNeighbours;
      static_assert(kLaneRows <= kRows);
#pragma unroll
      for (int i = 0; i < kThreadPatch; ++i) {
#pragma unroll
        for (int o = 0; o < kThreadColumns; ++o) {
          const int output = warp_outputs + tile_column(lane, o);
          columns[0][tile_row(lane, 0) / kNeighbours][output] = sums[i][o];
        }
        __syncthreads();
#pragma unroll 1
        for (int at = thread; at < kLaneRows * outputs; at += kThreads) {
          const int row = at / outputs;
          const int output = at % outputs;
          Sum sum = 0;
#pragma unroll 4
          for (int c = 0; c < cut.joint; ++c) sum += columns[0][row][c * outputs + output];
          const int k = row * kNeighbours + i / kNeighbours * kHalfRows + i % kNeighbours;
          if (k >= elements) continue;
          Sum& result = to[k * shape.output_channels + output];
          result = cut.slices == 1 ? result + sum : sum;
        }
        __syncthreads();
      }
    }
    task = tile.task + gridDim.x;
    __syncthreads();  // before the next tile is in the place of this
  }
}

template <typename Rows, typename T, typename Factor>
std::string launch_contract(const ConvCurvature<T>& conv, Cut cut, const Factor* factors,
                            core::Accumulator<T>* sums, Stream stream) {
  cut.packed_patches = fits_packs(conv.inputs, cut.channels);
  cut.packed_factors =
      fits_packs(factors, cut.outputs) &&
      (!std::is_same_v<Rows, Pooled> || fits_packs(conv.pooled.derivative, cut.outputs));
  return launch("conv_curvature",
                cut.half_tiles ? contract<Rows, 1, T, Factor> : contract<Rows, 2, T, Factor>,
                static_cast<unsigned>(std::min(cut.tasks, kMostGrid)), kThreads, stream, conv, cut,
                row_at(kThreads, conv.shape, cut.column_groups), factors, sums);
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

// The gradient is a matrix product: of the factors at the output pixels that see an input pixel,
// and the kernel. Each of its elements is collected by one thread, tap by tap of the kernel and
// output by output. Nothing is scattered, so no two threads add to the same place.
//
// Its rows are the input pixels of every column and sample, one after the other; a stage is a few
// outputs of one tap. A block owns a tile of (input pixel, channel). For each tap a thread finds
// the output pixel that one row's factors come from, if there is any; a stage's factors, multiplied
// with their derivative, and weights go through shared memory in two buffers, the next stage's
// into registers while each thread multiplies its part of the tile up. Zeros of the derivative are
// not skipped: each output has them elsewhere, so what is left would be no matrix product.
#include "cuda/curvature.h"
#include "cuda/curvature_pooled_factors.h"
#include "cuda/curvature_register_tile.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

// The rows of a register tile are input pixels, its columns channels; a block has 2 by 2 of them.
constexpr int kThreads = 128;
constexpr int kTileRows = 2 * kWarpRows;
constexpr int kTileChannels = 2 * kWarpColumns;
static_assert(kTileRows == kThreads, "a thread finds the factors of one row");
// Threads along the outputs, when shared memory is filled. With the gap between its rows they use
// different banks.
constexpr int kFillOutputs = 8;
constexpr int kFillThreads = kThreads / kFillOutputs;
constexpr int kGap = 4;
constexpr std::int64_t kMostGrid = 1 << 30;

template <typename T>
constexpr int kDepth = 64 / sizeof(T);  // outputs of a stage

// How the work is cut up.
struct Cut {
  std::int64_t rows;           // columns x samples x input pixels
  std::int64_t pixels;         // of the output
  std::int64_t channels;       // of a group
  std::int64_t outputs;        // of a group
  std::int64_t taps;           // of the kernel
  std::int64_t channel_tiles;  // of a group
  std::int64_t row_tiles;
  std::int64_t stages;
  Divisor strides[ConvShape::kAxes];
  Windows windows;
};

template <typename T>
Cut cut_of(const ConvInputGradient<T>& conv) {
  const ConvShape& shape = conv.shape;
  Cut cut{};
  cut.rows = shape.columns * shape.samples * shape.input_size[0] * shape.input_size[1] *
             shape.input_size[2];
  cut.pixels = shape.output_size[0] * shape.output_size[1] * shape.output_size[2];
  cut.channels = shape.input_channels / shape.groups;
  cut.outputs = shape.output_channels / shape.groups;
  cut.taps = shape.kernel_size[0] * shape.kernel_size[1] * shape.kernel_size[2];
  cut.channel_tiles = ceil_divide(cut.channels, kTileChannels);
  cut.row_tiles = ceil_divide(cut.rows, kTileRows);
  cut.stages = cut.taps * ceil_divide(cut.outputs, kDepth<T>);
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    cut.strides[axis] = divisor(shape.strides[axis]);
  }
  cut.windows = windows_of(shape, conv.factors);
  return cut;
}

// An input pixel of a column and sample.
struct Row {
  std::int32_t pixel[ConvShape::kAxes];  // in the padded input
  std::int64_t sample;
  std::int64_t term;  // column x samples + sample
  bool exists;
};

__device__ Row row_at(std::int64_t index, const ConvShape& shape, const Cut& cut) {
  Row row;
  row.exists = index < cut.rows;
  for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
    row.pixel[axis] =
        static_cast<std::int32_t>(index % shape.input_size[axis] + shape.padding_before[axis]);
    index /= shape.input_size[axis];
  }
  row.term = index;
  row.sample = index % shape.samples;
  return row;
}

// Where a row's factors for a tap lie, in elements from those of the group's first output.
struct Source {
  std::int64_t values;  // negative if no output pixel sees the row's pixel through the tap
  std::int64_t derivative;
};

__device__ Source source_of(const Row& row, const std::uint32_t tap[], const ConvShape& shape,
                            const Cut& cut) {
  std::uint32_t pixel[ConvShape::kAxes];
  bool seen = row.exists;
#pragma unroll
  for (int axis = 0; axis < ConvShape::kAxes; ++axis) {
    const std::int32_t corner =
        row.pixel[axis] - static_cast<std::int32_t>(tap[axis] * shape.dilations[axis]);
    const auto distance = static_cast<std::uint32_t>(corner);
    pixel[axis] = distance / cut.strides[axis];
    seen = seen && corner >= 0 && pixel[axis] * shape.strides[axis] == distance &&
           pixel[axis] < shape.output_size[axis];
  }
  if (!seen) return {-1, 0};
  return {
      (row.term * cut.windows.count + window_at(pixel, cut.windows)) * shape.output_channels,
      (row.sample * cut.pixels + pixel_index(pixel, shape)) * shape.output_channels,
  };
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backpropagate(ConvInputGradient<T> conv, Cut cut) {
  constexpr int kOutputs = kDepth<T>;
  // What a thread moves when it fills shared memory.
  constexpr int kFillRows = kTileRows / kFillThreads;
  constexpr int kFillChannels = kTileChannels / kFillThreads;
  constexpr int kFillDepth = kOutputs / kFillOutputs;

  alignas(16) __shared__ T factors[2][kOutputs][kTileRows + kGap];
  alignas(16) __shared__ T weights[2][kOutputs][kTileChannels + kGap];
  __shared__ Source sources[2][kTileRows];  // of even and odd taps

  const ConvShape& shape = conv.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp_row = thread / 32 % 2 * kWarpRows;
  const int warp_channel = thread / 64 * kWarpColumns;
  const int fill_output = thread % kFillOutputs;
  const int fill_first = thread / kFillOutputs;

  const std::int64_t tasks = cut.row_tiles * shape.groups * cut.channel_tiles;
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::int64_t first_channel = task % cut.channel_tiles * kTileChannels;
    const std::int64_t group = task / cut.channel_tiles % shape.groups;
    const std::int64_t first_row = task / cut.channel_tiles / shape.groups * kTileRows;
    const std::int64_t channels = cut.channels - first_channel;
    const T* const values = conv.factors.values + group * cut.outputs;
    const T* const derivative = conv.factors.derivative + group * cut.outputs;
    const T* const kernel =
        conv.kernel + first_channel * shape.output_channels + group * cut.outputs;

    // This thread's row, and the tap whose factors it looks for next.
    const Row row = row_at(first_row + thread, shape, cut);
    std::uint32_t tap[ConvShape::kAxes] = {};
    const auto find_sources = [&](std::int64_t number) {
      if (number >= cut.taps) return;
      sources[number % 2][thread] = source_of(row, tap, shape, cut);
      bool carry = true;
#pragma unroll
      for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
        tap[axis] += carry;
        carry = tap[axis] == shape.kernel_size[axis];
        if (carry) tap[axis] = 0;
      }
    };

    // The stage that is on its way into shared memory.
    T next_factors[kFillRows][kFillDepth];
    T next_weights[kFillChannels][kFillDepth];
    std::int64_t next_tap = 0;
    std::int64_t next_output = 0;
    const auto gather = [&] {
      const std::int64_t first = next_output + fill_output;
#pragma unroll
      for (int i = 0; i < kFillRows; ++i) {
        const Source source = sources[next_tap % 2][fill_first + i * kFillThreads];
#pragma unroll
        for (int k = 0; k < kFillDepth; ++k) {
          const std::int64_t output = first + k * kFillOutputs;
          next_factors[i][k] = source.values >= 0 && output < cut.outputs
                                   ? pooled_factor(values[source.values + output],
                                                   derivative[source.derivative + output])
                                   : T(0);
        }
      }
#pragma unroll
      for (int i = 0; i < kFillChannels; ++i) {
        const int channel = fill_first + i * kFillThreads;
        const std::int64_t at = (next_tap * cut.channels + channel) * shape.output_channels;
#pragma unroll
        for (int k = 0; k < kFillDepth; ++k) {
          const std::int64_t output = first + k * kFillOutputs;
          next_weights[i][k] =
              channel < channels && output < cut.outputs ? kernel[at + output] : T(0);
        }
      }
      next_output += kOutputs;
      if (next_output < cut.outputs) return;
      next_output = 0;
      ++next_tap;
    };
    const auto fill = [&](int buffer) {
#pragma unroll
      for (int k = 0; k < kFillDepth; ++k) {
        const int output = fill_output + k * kFillOutputs;
#pragma unroll
        for (int i = 0; i < kFillRows; ++i) {
          factors[buffer][output][fill_first + i * kFillThreads] = next_factors[i][k];
        }
#pragma unroll
        for (int i = 0; i < kFillChannels; ++i) {
          weights[buffer][output][fill_first + i * kFillThreads] = next_weights[i][k];
        }
      }
    };

    T products[kThreadRows][kThreadColumns] = {};
    const bool in_use = warp_channel < channels;
    find_sources(0);
    __syncthreads();
    gather();
    fill(0);
    find_sources(1);
    __syncthreads();
    for (std::int64_t stage = 0; stage < cut.stages; ++stage) {
      const int buffer = static_cast<int>(stage % 2);
      const bool more = stage + 1 < cut.stages;
      if (more) {
        // A tap's first stage: that of the tap before was the last to look at the other sources.
        const bool first = next_output == 0;
        const std::int64_t after = next_tap + 1;
        gather();
        if (first) find_sources(after);
      }
      if (in_use) {
#pragma unroll 4
        for (int k = 0; k < kOutputs; ++k) {
          add_products(factors[buffer][k] + warp_row, weights[buffer][k] + warp_channel, lane,
                       products);
        }
      }
      if (more) fill(1 - buffer);
      __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
      const std::int64_t to = first_row + warp_row + tile_row(lane, i);
      if (to >= cut.rows) continue;
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        const int channel = warp_channel + tile_column(lane, j);
        if (channel >= channels) continue;
        conv.gradient[to * shape.input_channels + group * cut.channels + first_channel + channel] =
            products[i][j];
      }
    }
  }
}

}  // namespace

template <typename T>
std::string run(const ConvInputGradient<T>& conv, void*, Stream stream) {
  const Cut cut = cut_of(conv);
  const std::int64_t tasks = cut.row_tiles * conv.shape.groups * cut.channel_tiles;
  return launch("conv_input_gradient", backpropagate<T>,
                static_cast<unsigned>(std::min(tasks, kMostGrid)), kThreads, stream, conv, cut);
}

template std::string run(const ConvInputGradient<float>&, void*, Stream);
template std::string run(const ConvInputGradient<double>&, void*, Stream);

}  // namespace prospr::cuda

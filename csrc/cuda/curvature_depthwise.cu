// Neighbours in a warp are neighbouring outputs, and so neighbours in memory.
//
// Windows of 3 or 5 columns, not dilated along x, with a stride of 1 or 2 there: a thread takes all
// taps (kernel elements) of a few rows of the kernel for one output, over a slice of the samples
// and columns. It reads the inputs of several neighbouring pixels at once, each of which serves all
// taps, and the next pixels' factors ahead. Several threads share the pixels of an image.
//
// Other windows: a thread takes a few taps of one output, pixel by pixel.
#include <limits>

#include "cuda/curvature_depthwise.h"
#include "cuda/curvature_slices.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTaps = 9;
constexpr std::int64_t kWantedThreads = 1 << 18;

struct Cut {
  std::int64_t taps;    // of the kernel
  std::int64_t parts;   // of the kernel: kTaps taps, or some rows
  std::int64_t slices;  // of samples x columns
  std::int64_t steps;   // samples x columns per slice, at most
  int strips;           // of the pixels of an image
};

__device__ bool inside(std::int32_t coordinate, std::int32_t size) {
  // A negative coordinate is a very large one without its sign.
  return static_cast<std::uint32_t>(coordinate) < static_cast<std::uint32_t>(size);
}

// A kernel of kSide columns, kSide rows of which are one thread's.
template <typename T, int kSide, int kStride>
struct Window {
  using Sum = core::Accumulator<T>;
  static constexpr int kRows = kSide;
  static constexpr int kStrideX = kStride;
  static constexpr int kTaps = kSide * kSide;
  static constexpr int kPixels = kStride == 1 ? 8 : 4;             // at once
  static constexpr int kInputs = (kPixels - 1) * kStride + kSide;  // of one row, for them
  // Their sums take twice as many elements of shared memory per thread as there are taps.
  static constexpr int kThreads = kTaps * sizeof(Sum) > 128 ? 64 : 128;
  // Of one multiprocessor: as many as leave each thread the registers that it needs.
  static constexpr int kBlocks = kSide == 5 ? 2 : sizeof(Sum) == 8 ? 3 : 5;
  static constexpr int kMostStrips = kThreads / 8;

  // Whether it is such a window; offsets within an image are 32-bit.
  static bool fits(const ConvShape& shape) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 2;
    // With rows of the kernel that are not there.
    const std::int64_t rows = padded_size(shape, 1) + kRows * shape.dilations[1];
    const std::int64_t columns = padded_size(shape, 2);
    return shape.kernel_size[2] == kSide && shape.strides[2] == kStride &&
           shape.dilations[2] == 1 && shape.kernel_size[0] == 1 && shape.input_size[0] == 1 &&
           shape.output_size[0] == 1 && shape.padding_before[0] == 0 && rows <= kMost &&
           columns <= kMost && rows * columns <= kMost / shape.output_channels;
  }

  static Cut cut_of(const ConvShape& shape) {
    Cut cut{};
    cut.taps = shape.kernel_size[1] * kSide;
    cut.parts = ceil_divide(shape.kernel_size[1], kSide);
    const std::int64_t terms = shape.samples * shape.columns;
    const std::int64_t tasks = cut.parts * shape.output_channels;
    const std::int64_t batches = shape.output_size[1] * ceil_divide(shape.output_size[2], kPixels);
    // A warp of its own for each of 4; more where there are few tasks.
    for (cut.strips = 1; cut.strips < kMostStrips && batches >= 8 * cut.strips; cut.strips *= 2) {
      if (cut.strips >= 4 && tasks * terms * cut.strips >= kWantedThreads) break;
    }
    const std::int64_t slices = slices_for(kWantedThreads / cut.strips, tasks, terms,
                                           cut.taps * shape.output_channels, sizeof(Sum));
    cut.steps = ceil_divide(terms, slices);
    cut.slices = ceil_divide(terms, cut.steps);
    return cut;
  }
};

// What a thread knows of the images of one term, a sample and a column.
template <typename T>
struct Images {
  const T* inputs;   // of its channel
  const T* factors;  // of its output
  std::int32_t input_channels;
  std::int32_t output_channels;
  std::int32_t input_height;
  std::int32_t input_width;
  std::int32_t output_width;
  std::int32_t stride;    // along y
  std::int32_t dilation;  // along y
  std::int32_t first_y;   // of the inputs of output row 0
  std::int32_t first_x;   // of the inputs of output column 0
  std::int32_t rows;      // of the kernel, from the thread's first on
};

// The inputs at `at`, row from_y and column from_x, and what else kPixels pixels take; 0 outside of
// an image, unless all are inside.
template <typename W, bool kAllInside, typename T>
__device__ void add_pixels(const Images<T>& images, const T* at,
                           const core::Accumulator<T>* gradients, std::int32_t from_y,
                           std::int32_t from_x, core::Accumulator<T>* products) {
  const T* row = at;
#pragma unroll
  for (int i = 0; i < W::kRows; ++i) {
    const bool is_row =
        i < images.rows && inside(from_y + i * images.dilation, images.input_height);
    T values[W::kInputs] = {};
    const T* from = row;
#pragma unroll
    for (int k = 0; k < W::kInputs; ++k) {
      if (kAllInside || (is_row && inside(from_x + k, images.input_width))) values[k] = *from;
      from += images.input_channels;
    }
    row += images.dilation * images.input_width * images.input_channels;
#pragma unroll
    for (int u = 0; u < W::kPixels; ++u) {
#pragma unroll
      for (int j = 0; j < W::kRows; ++j) {
        products[i * W::kRows + j] += gradients[u] * core::widen(values[u * W::kStrideX + j]);
      }
    }
  }
}

// products = those of the batches [begin, end) of kPixels pixels of a row.
template <typename W, typename T>
__device__ void multiply(const Images<T>& images, std::int32_t begin, std::int32_t end,
                         std::int32_t in_row, core::Accumulator<T>* products) {
  using Sum = core::Accumulator<T>;
  std::int32_t y = begin / in_row;
  std::int32_t x = (begin - y * in_row) * W::kPixels;
  const T* factor = images.factors + (y * images.output_width + x) * images.output_channels;
  T factors[W::kPixels];
  const auto read = [&](std::int32_t first) {
    const T* from = factor;
#pragma unroll
    for (int u = 0; u < W::kPixels; ++u) {
      factors[u] = {};
      if (first + u < images.output_width) factors[u] = *from;
      from += images.output_channels;
    }
  };
  std::int32_t from_y = y * images.stride + images.first_y;
  std::int32_t from_x = x * W::kStrideX + images.first_x;
  const T* at = images.inputs + (from_y * images.input_width + from_x) * images.input_channels;
  read(x);
  for (std::int32_t batch = begin; batch < end; ++batch) {
    Sum gradients[W::kPixels];
#pragma unroll
    for (int u = 0; u < W::kPixels; ++u) gradients[u] = core::widen(factors[u]);
    // Where the next batch is.
    const bool is_last = x + W::kPixels >= images.output_width;
    const std::int32_t step = is_last ? images.output_width - x : W::kPixels;
    factor += step * images.output_channels;
    const std::int32_t next_x = is_last ? 0 : x + W::kPixels;
    if (batch + 1 < end) read(next_x);

    if (from_x >= 0 && from_x + W::kInputs <= images.input_width && from_y >= 0 &&
        W::kRows <= images.rows &&
        from_y + (W::kRows - 1) * images.dilation < images.input_height) {
      add_pixels<W, true>(images, at, gradients, from_y, from_x, products);
    } else {
      add_pixels<W, false>(images, at, gradients, from_y, from_x, products);
    }
    const std::int32_t to_x = next_x * W::kStrideX + images.first_x;
    const std::int32_t rows = is_last ? images.stride : 0;
    at += (rows * images.input_width + to_x - from_x) * images.input_channels;
    x = next_x;
    from_x = to_x;
    from_y += rows;
  }
}

// The same, pixel by pixel, without any product of what lies outside: zero times infinity is not
// zero.
template <typename W, typename T>
__device__ void multiply_slowly(const Images<T>& images, std::int32_t begin, std::int32_t end,
                                std::int32_t in_row, core::Accumulator<T>* products) {
#pragma unroll
  for (int i = 0; i < W::kTaps; ++i) products[i] = 0;
#pragma unroll 1
  for (std::int32_t batch = begin; batch < end; ++batch) {
    const std::int32_t y = batch / in_row;
    const std::int32_t first_x = (batch - y * in_row) * W::kPixels;
#pragma unroll 1
    for (std::int32_t x = first_x; x < first_x + W::kPixels && x < images.output_width; ++x) {
      const core::Accumulator<T> gradient =
          core::widen(images.factors[(y * images.output_width + x) * images.output_channels]);
#pragma unroll
      for (int i = 0; i < W::kTaps; ++i) {
        const int row = i / W::kRows;
        const std::int32_t from_y = y * images.stride + images.first_y + row * images.dilation;
        const std::int32_t from_x = x * W::kStrideX + images.first_x + i % W::kRows;
        if (row < images.rows && inside(from_y, images.input_height) &&
            inside(from_x, images.input_width)) {
          const std::int32_t pixel = from_y * images.input_width + from_x;
          products[i] += gradient * core::widen(images.inputs[pixel * images.input_channels]);
        }
      }
    }
  }
}

template <typename T, int kSide, int kStride>
__global__ void __launch_bounds__(Window<T, kSide, kStride>::kThreads,
                                  Window<T, kSide, kStride>::kBlocks)
    contract_windows(ConvCurvature<T> conv, Cut cut, core::Accumulator<T>* sums_out) {
  using Sum = core::Accumulator<T>;
  using W = Window<T, kSide, kStride>;
  __shared__ Sum shared[W::kTaps][W::kThreads];  // of each thread
  __shared__ Sum sums[W::kTaps][W::kThreads];    // of each task
  const ConvShape& shape = conv.shape;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t pixels = shape.output_size[1] * shape.output_size[2];
  const std::int64_t terms = shape.samples * shape.columns;
  const std::int64_t tasks = cut.slices * cut.parts * outputs;
  Images<T> images{};
  images.input_channels = static_cast<std::int32_t>(shape.input_channels);
  images.output_channels = static_cast<std::int32_t>(outputs);
  images.input_height = static_cast<std::int32_t>(shape.input_size[1]);
  images.input_width = static_cast<std::int32_t>(shape.input_size[2]);
  images.output_width = static_cast<std::int32_t>(shape.output_size[2]);
  images.stride = static_cast<std::int32_t>(shape.strides[1]);
  images.dilation = static_cast<std::int32_t>(shape.dilations[1]);
  images.first_x = -static_cast<std::int32_t>(shape.padding_before[2]);

  // A block takes `lanes` tasks, each shared by `strips` threads: a strip is some of the batches
  // of pixels.
  const int strips = cut.strips;
  const int lanes = W::kThreads / strips;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int strip = static_cast<int>(threadIdx.x) / lanes;
  const std::int32_t in_row = (images.output_width + W::kPixels - 1) / W::kPixels;
  const std::int64_t batches = shape.output_size[1] * in_row;
  const auto begin = static_cast<std::int32_t>(batches * strip / strips);
  const auto end = static_cast<std::int32_t>(batches * (strip + 1) / strips);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * lanes; first < tasks;
       first += static_cast<std::int64_t>(gridDim.x) * lanes) {
    const std::int64_t task = first + lane;
    const std::int64_t output = task % outputs;
    const std::int64_t first_row = task / outputs % cut.parts * kSide;
    const std::int64_t slice = task / outputs / cut.parts;
    const std::int64_t channel = output / (outputs / shape.input_channels);
    images.first_y =
        static_cast<std::int32_t>(first_row * shape.dilations[1] - shape.padding_before[1]);
    images.rows = static_cast<std::int32_t>(shape.kernel_size[1] - first_row);
    for (int tap = strip; tap < W::kTaps; tap += strips) sums[tap][lane] = 0;

    for (std::int64_t step = 0; step < cut.steps; ++step) {
      const std::int64_t term = slice * cut.steps + step;
      Sum products[W::kTaps] = {};
      if (task < tasks && term < terms && begin < end) {
        const std::int64_t sample = term / shape.columns;
        const std::int64_t column = term - sample * shape.columns;
        images.factors =
            conv.factors + (column * shape.samples + sample) * pixels * outputs + output;
        images.inputs = conv.inputs +
                        sample * shape.input_size[1] * shape.input_size[2] * shape.input_channels +
                        channel;
        multiply<W>(images, begin, end, in_row, products);
        Sum check = 0;
#pragma unroll
        for (int i = 0; i < W::kTaps; ++i) check += products[i] * 0;
        if (check != 0) multiply_slowly<W>(images, begin, end, in_row, products);
      }
#pragma unroll
      for (int i = 0; i < W::kTaps; ++i) shared[i][threadIdx.x] = products[i];
      __syncthreads();
#pragma unroll 1
      for (int tap = strip; tap < W::kTaps; tap += strips) {
        Sum product = shared[tap][lane];
#pragma unroll 1
        for (int of = 1; of < strips; ++of) product += shared[tap][of * lanes + lane];
        sums[tap][lane] += product * product;
      }
      __syncthreads();
    }

#pragma unroll 1
    for (int tap = strip; tap < W::kTaps && task < tasks; tap += strips) {
      const std::int64_t of = first_row * kSide + tap;
      if (of >= cut.taps) continue;
      Sum& result = sums_out[(slice * cut.taps + of) * outputs + output];
      result = cut.slices == 1 ? result + sums[tap][lane] : sums[tap][lane];
    }
  }
}

template <typename T>
Cut cut_of(const ConvShape& shape) {
  Cut cut{};
  cut.taps = shape.kernel_size[0] * shape.kernel_size[1] * shape.kernel_size[2];
  cut.parts = ceil_divide(cut.taps, kTaps);
  cut.slices =
      slices_for(kWantedThreads, cut.parts * shape.output_channels, shape.samples * shape.columns,
                 cut.taps * shape.output_channels, sizeof(core::Accumulator<T>));
  return cut;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    contract_depthwise(ConvCurvature<T> conv, Cut cut, core::Accumulator<T>* sums_out) {
  using Sum = core::Accumulator<T>;
  const ConvShape& shape = conv.shape;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t* const in = shape.input_size;
  const std::int64_t* const out = shape.output_size;
  const std::int32_t size[] = {static_cast<std::int32_t>(in[0]), static_cast<std::int32_t>(in[1]),
                               static_cast<std::int32_t>(in[2])};
  const std::int64_t terms = shape.samples * shape.columns;
  const std::int64_t tasks = cut.slices * cut.parts * outputs;
  for (std::int64_t task = global_thread(); task < tasks; task += global_threads()) {
    const std::int64_t output = task % outputs;
    const std::int64_t first_tap = task / outputs % cut.parts * kTaps;
    const std::int64_t slice = task / outputs / cut.parts;
    const std::int64_t channel = output / (outputs / shape.input_channels);

    // The offset of each tap from an output pixel.
    std::int32_t at[kTaps][ConvShape::kAxes];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      std::int64_t rest = first_tap + i;
      for (int axis = ConvShape::kAxes - 1; axis >= 0; --axis) {
        at[i][axis] = static_cast<std::int32_t>(
            rest % shape.kernel_size[axis] * shape.dilations[axis] - shape.padding_before[axis]);
        rest /= shape.kernel_size[axis];
      }
    }

    Sum sums[kTaps] = {};
    for (std::int64_t term = terms * slice / cut.slices; term < terms * (slice + 1) / cut.slices;
         ++term) {
      const std::int64_t sample = term / shape.columns;
      const std::int64_t column = term % shape.columns;
      const T* factor = conv.factors +
                        (column * shape.samples + sample) * out[0] * out[1] * out[2] * outputs +
                        output;
      const T* const inputs =
          conv.inputs + sample * in[0] * in[1] * in[2] * shape.input_channels + channel;
      Sum products[kTaps] = {};
      for (std::int64_t z = 0; z < out[0]; ++z) {
        for (std::int64_t y = 0; y < out[1]; ++y) {
          for (std::int64_t x = 0; x < out[2]; ++x, factor += outputs) {
            const Sum gradient = core::widen(*factor);
            // The first input stands for those outside: no read waits for another.
            bool is_inside[kTaps];
            T values[kTaps];
#pragma unroll
            for (int i = 0; i < kTaps; ++i) {
              const auto from_z = static_cast<std::int32_t>(z * shape.strides[0] + at[i][0]);
              const auto from_y = static_cast<std::int32_t>(y * shape.strides[1] + at[i][1]);
              const auto from_x = static_cast<std::int32_t>(x * shape.strides[2] + at[i][2]);
              is_inside[i] =
                  inside(from_z, size[0]) && inside(from_y, size[1]) && inside(from_x, size[2]);
              const std::int64_t pixel =
                  is_inside[i] ? (from_z * in[1] + from_y) * in[2] + from_x : 0;
              values[i] = inputs[pixel * shape.input_channels];
            }
#pragma unroll
            for (int i = 0; i < kTaps; ++i) {
              const Sum product = products[i] + gradient * core::widen(values[i]);
              products[i] = is_inside[i] ? product : products[i];
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTaps; ++i) sums[i] += products[i] * products[i];
    }

#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      if (first_tap + i >= cut.taps) continue;
      Sum& result = sums_out[(slice * cut.taps + first_tap + i) * outputs + output];
      result = cut.slices == 1 ? result + sums[i] : sums[i];
    }
  }
}

// How the taps of a shape are contracted.
template <typename T>
struct Plan {
  Cut cut;
  std::int64_t blocks;
  int threads;
  void (*kernel)(ConvCurvature<T>, Cut, core::Accumulator<T>*);
};

template <typename T, int kSide, int kStride>
bool plan_windows(const ConvShape& shape, Plan<T>* plan) {
  using W = Window<T, kSide, kStride>;
  if (!W::fits(shape)) return false;
  const Cut cut = W::cut_of(shape);
  const std::int64_t tasks = cut.slices * cut.parts * shape.output_channels;
  *plan = {cut, ceil_divide(tasks, W::kThreads / cut.strips), W::kThreads,
           contract_windows<T, kSide, kStride>};
  return true;
}

template <typename T>
Plan<T> plan_of(const ConvShape& shape) {
  Plan<T> plan{};
  if (plan_windows<T, 3, 1>(shape, &plan) || plan_windows<T, 3, 2>(shape, &plan) ||
      plan_windows<T, 5, 1>(shape, &plan) || plan_windows<T, 5, 2>(shape, &plan)) {
    return plan;
  }
  const Cut cut = cut_of<T>(shape);
  const std::int64_t tasks = cut.slices * cut.parts * shape.output_channels;
  return {cut, ceil_divide(tasks, kThreads), kThreads, contract_depthwise<T>};
}

}  // namespace

template <typename T>
std::int64_t depthwise_scratch_bytes(const ConvShape& shape) {
  const Cut cut = plan_of<T>(shape).cut;
  return apart(cut.slices, cut.taps * shape.output_channels) *
         static_cast<std::int64_t>(sizeof(core::Accumulator<T>));
}

template <typename T>
std::string run_depthwise(const ConvCurvature<T>& conv, void* scratch, Stream stream) {
  using Sum = core::Accumulator<T>;
  const Plan<T> plan = plan_of<T>(conv.shape);
  const Cut& cut = plan.cut;
  Sum* const sums = cut.slices == 1 ? conv.curvature : static_cast<Sum*>(scratch);
  const std::string wrong = launch("depthwise_curvature", plan.kernel, blocks_for(plan.blocks, 1),
                                   plan.threads, stream, conv, cut, sums);
  if (!wrong.empty()) return wrong;
  return add_slices(sums, cut.slices, cut.taps * conv.shape.output_channels, conv.curvature,
                    stream);
}

#define INSTANTIATE(T)                                                \
  template std::int64_t depthwise_scratch_bytes<T>(const ConvShape&); \
  template std::string run_depthwise(const ConvCurvature<T>&, void*, Stream)
INSTANTIATE(float);
INSTANTIATE(double);
INSTANTIATE(core::Half);
INSTANTIATE(core::BFloat16);
#undef INSTANTIATE

}  // namespace prospr::cuda

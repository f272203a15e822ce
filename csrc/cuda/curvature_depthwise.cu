// A thread takes a few taps (kernel elements) of one output, over a slice of the samples and
// columns; neighbours in a warp are neighbours in memory. Nothing is shared but through the caches.
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
  std::int64_t parts;   // of kTaps taps
  std::int64_t slices;  // of samples x columns
};

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

    const auto inside = [](std::int32_t coordinate, std::int64_t size) {
      // A negative coordinate is a very large one without its sign.
      return static_cast<std::uint32_t>(coordinate) < static_cast<std::uint32_t>(size);
    };
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
#pragma unroll
            for (int i = 0; i < kTaps; ++i) {
              const auto from_z = static_cast<std::int32_t>(z * shape.strides[0] + at[i][0]);
              const auto from_y = static_cast<std::int32_t>(y * shape.strides[1] + at[i][1]);
              const auto from_x = static_cast<std::int32_t>(x * shape.strides[2] + at[i][2]);
              if (inside(from_z, in[0]) && inside(from_y, in[1]) && inside(from_x, in[2])) {
                const std::int64_t pixel = (from_z * in[1] + from_y) * in[2] + from_x;
                products[i] += gradient * core::widen(inputs[pixel * shape.input_channels]);
              }
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

}  // namespace

template <typename T>
std::int64_t depthwise_scratch_bytes(const ConvShape& shape) {
  const Cut cut = cut_of<T>(shape);
  return apart(cut.slices, cut.taps * shape.output_channels) *
         static_cast<std::int64_t>(sizeof(core::Accumulator<T>));
}

template <typename T>
std::string run_depthwise(const ConvCurvature<T>& conv, void* scratch, Stream stream) {
  using Sum = core::Accumulator<T>;
  const Cut cut = cut_of<T>(conv.shape);
  Sum* const sums = cut.slices == 1 ? conv.curvature : static_cast<Sum*>(scratch);
  const std::int64_t tasks = cut.slices * cut.parts * conv.shape.output_channels;
  const std::string wrong = launch("depthwise_curvature", contract_depthwise<T>,
                                   blocks_for(tasks, kThreads), kThreads, stream, conv, cut, sums);
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

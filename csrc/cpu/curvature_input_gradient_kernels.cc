#include "cpu/curvature_input_gradient_kernels.h"

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
using Plan = InputGradientPlan<T>;

template <typename T>
void pack(const Plan<T>& plan, std::int64_t begin, std::int64_t end) {
  const std::int64_t outputs = plan.conv.shape.output_channels;
  for (std::int64_t i = begin * plan.packed_channel; i < end * plan.packed_channel; ++i) {
    plan.kernel[i] = 0;
  }
  for (std::int64_t r = 0; r < plan.run_count; ++r) {
    const Run& run = plan.runs[r];
    for (std::int64_t i = 0; i < run.length; ++i) {
      const T* const from = plan.conv.kernel + (run.patch + i) * outputs;
      for (std::int64_t o = begin; o < end; ++o) {
        plan.kernel[o * plan.packed_channel + run.packed + i] = from[o];
      }
    }
  }
}

// The channels of one pixel and group that are not zero, and where a run of their kernels goes.
template <typename T>
struct Pixel {
  std::int64_t nonzeros;
  const std::int32_t* channels;  // [nonzeros]
  const T* values;               // [nonzeros, columns]
  std::int64_t columns;
  const T* kernel;              // the run's, of output channel 0
  std::int64_t channel_stride;  // of kernel
  T* to;                        // the run's, in the first column
  std::int64_t column_stride;   // of to
};

// to += sum over channels of kernel x value, for kColumns columns from `first` on.
template <int kColumns, int kVectors, typename T>
void add_run(const Pixel<T>& pixel, std::int64_t first) {
  Vector<T> sums[kColumns][kVectors] = {};
  const T* value = pixel.values + first;
  for (std::int64_t i = 0; i < pixel.nonzeros; ++i, value += pixel.columns) {
    const T* const kernel = pixel.kernel + pixel.channels[i] * pixel.channel_stride;
    Vector<T> lanes[kVectors];
    for (int v = 0; v < kVectors; ++v) lanes[v] = load(kernel + v * kVectorLanes<T>);
    for (int c = 0; c < kColumns; ++c) {
      for (int v = 0; v < kVectors; ++v) sums[c][v] += lanes[v] * value[c];
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    T* const to = pixel.to + (first + c) * pixel.column_stride;
    for (int v = 0; v < kVectors; ++v) {
      store(to + v * kVectorLanes<T>, load(to + v * kVectorLanes<T>) + sums[c][v]);
    }
  }
}

template <int kVectors, typename T>
void add_run(const Pixel<T>& pixel) {
  constexpr std::int64_t kMostColumns = 6;
  const std::int64_t cuts = (pixel.columns + kMostColumns - 1) / kMostColumns;
  for (std::int64_t cut = 0; cut < cuts; ++cut) {
    const std::int64_t first = pixel.columns * cut / cuts;
    switch (pixel.columns * (cut + 1) / cuts - first) {
      case 1:
        add_run<1, kVectors>(pixel, first);
        break;
      case 2:
        add_run<2, kVectors>(pixel, first);
        break;
      case 3:
        add_run<3, kVectors>(pixel, first);
        break;
      case 4:
        add_run<4, kVectors>(pixel, first);
        break;
      case 5:
        add_run<5, kVectors>(pixel, first);
        break;
      default:
        add_run<6, kVectors>(pixel, first);
    }
  }
}

// Copies padded samples without their padding.
template <typename T>
void crop(const Plan<T>& plan, const T* from, T* to) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t* const size = shape.input_size;
  const std::int64_t* const before = shape.padding_before;
  const std::int64_t row = size[2] * shape.input_channels;
  for (std::int64_t z = 0; z < size[0]; ++z) {
    for (std::int64_t y = 0; y < size[1]; ++y, to += row) {
      const std::int64_t from_row =
          ((z + before[0]) * padded_size(shape, 1) + y + before[1]) * padded_size(shape, 2) +
          before[2];
      for (std::int64_t i = 0; i < row; ++i) to[i] = from[from_row * shape.input_channels + i];
    }
  }
}

// Adds one output pixel of a sample to the padded samples of columns from `first` on.
template <typename T>
void add_pixel(const Plan<T>& plan, std::int64_t sample, std::int64_t t, std::int64_t first,
               std::int64_t columns, const InputGradientScratch<T>& scratch) {
  const ConvShape& shape = plan.conv.shape;
  const PooledFactors<T>& factors = plan.conv.factors;
  const std::int64_t outputs = shape.output_channels;
  const std::int64_t group_outputs = outputs / shape.groups;
  const std::int64_t group_channels = shape.input_channels / shape.groups;
  const std::int64_t windows = factors.windows[0] * factors.windows[1] * factors.windows[2];
  const T* const derivative = factors.derivative + (sample * plan.pixels + t) * outputs;
  const std::int64_t column_stride = shape.samples * windows * outputs;
  const T* const values =
      factors.values + first * column_stride + (sample * windows + plan.windows[t]) * outputs;
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    // In two steps: branches on what is zero could not be predicted.
    std::int64_t nonzeros = 0;
    for (std::int64_t o = group * group_outputs; o < (group + 1) * group_outputs; ++o) {
      scratch.channels[nonzeros] = static_cast<std::int32_t>(o);
      nonzeros += derivative[o] != 0;
    }
    T* value = scratch.values;
    for (std::int64_t i = 0; i < nonzeros; ++i) {
      const std::int64_t o = scratch.channels[i];
      for (std::int64_t c = 0; c < columns; ++c) {
        *value++ = derivative[o] * values[c * column_stride + o];
      }
    }
    for (std::int64_t r = 0; r < plan.run_count; ++r) {
      const Run& run = plan.runs[r];
      const Pixel<T> pixel{
          nonzeros,
          scratch.channels,
          scratch.values,
          columns,
          plan.kernel + run.packed,
          plan.packed_channel,
          scratch.padded + plan.position_offsets[t] + group * group_channels + run.offset,
          plan.padded_sample};
      if (run.length > kVectorLanes<T>) {
        add_run<2>(pixel);
      } else {
        add_run<1>(pixel);
      }
    }
  }
}

template <typename T>
void backpropagate(const Plan<T>& plan, std::int64_t begin, std::int64_t end,
                   const InputGradientScratch<T>& scratch) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t input_sample =
      shape.input_size[0] * shape.input_size[1] * shape.input_size[2] * shape.input_channels;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t sample = task / plan.blocks;
    const std::int64_t first = column_begin(plan, task % plan.blocks);
    const std::int64_t columns = column_begin(plan, task % plan.blocks + 1) - first;
    const std::int64_t size = columns * plan.padded_sample + kRunVectors * kVectorLanes<T>;
    for (std::int64_t i = 0; i < size; ++i) scratch.padded[i] = 0;
    for (std::int64_t t = 0; t < plan.pixels; ++t) {
      add_pixel(plan, sample, t, first, columns, scratch);
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      crop(plan, scratch.padded + c * plan.padded_sample,
           plan.conv.gradient + ((first + c) * shape.samples + sample) * input_sample);
    }
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(InputGradientKernels<float>, kVectorLanes<float>, pack, backpropagate)
PROSPR_KERNELS(InputGradientKernels<double>, kVectorLanes<double>, pack, backpropagate)

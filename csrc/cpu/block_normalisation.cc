#include "cpu/block_normalisation.h"

#include <algorithm>
#include <vector>

#include "core/normalisation.h"
#include "cpu/block_normalisation_kernels.h"

namespace prospr::cpu {
namespace {

// Positions of a block that one thread works on in one go. It is part of the definition of the
// result, so it may not depend on the number of threads. Few, for their sums are in T.
constexpr std::int64_t kRows = 64;
// Bytes that a thread reads or writes per nanosecond.
constexpr double kSpeed = 16;

// Numbers per channel that the kernels read.
template <typename T>
struct PerChannel {
  explicit PerChannel(const BlockNormShape& shape)
      : centre(shape.channels),
        slope(shape.channels),
        level(shape.channels),
        by_gradient(shape.channels),
        by_d(shape.channels),
        constant(shape.channels) {}

  std::vector<T> centre, slope, level, by_gradient, by_d, constant;
};

// Calls work(item, rows) for each run of positions; `tensors` hold where the whole tensors begin.
template <typename T, typename Work>
void for_rows(const BlockNormShape& shape, const BlockRows<T>& tensors, double passes,
              const ParallelFor& parallel_for, const Work& work) {
  const std::int64_t chunks = (shape.positions + kRows - 1) / kRows;
  const std::int64_t row = shape.channels * kBlockLanes;
  const auto from = [](auto* tensor, std::int64_t at) {
    return tensor == nullptr ? nullptr : tensor + at;
  };
  const auto bytes = static_cast<double>(std::min(kRows, shape.positions) * row) * sizeof(T);
  parallel_for(shape.blocks() * chunks, passes * bytes / kSpeed,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t item = begin; item < end; ++item) {
                   const std::int64_t block = item / chunks;
                   const std::int64_t first = item % chunks * kRows;
                   const std::int64_t at = (block * shape.positions + first) * row;
                   BlockRows<T> rows = tensors;
                   rows.rows = std::min(kRows, shape.positions - first);
                   rows.channels = shape.channels;
                   rows.lanes = std::min(kBlockLanes, shape.samples - block * kBlockLanes);
                   rows.x = from(rows.x, at);
                   rows.residual = from(rows.residual, at);
                   rows.gradient = from(rows.gradient, at);
                   rows.result = from(rows.result, at);
                   work(item, rows);
                 }
               });
}

// [2, channels]: the sums of all items, one after the other.
template <typename T>
std::vector<double> add_up(const BlockNormShape& shape, const BlockRows<T>& tensors, double passes,
                           typename BlockNormKernels<T>::Sums kernel,
                           const ParallelFor& parallel_for) {
  const std::int64_t items = shape.blocks() * ((shape.positions + kRows - 1) / kRows);
  const std::int64_t size = 2 * shape.channels;
  std::vector<double> sums(items * size);
  for_rows<T>(shape, tensors, passes, parallel_for,
              [&](std::int64_t item, const BlockRows<T>& rows) {
                kernel(rows, sums.data() + item * size);
              });
  for (std::int64_t item = 1; item < items; ++item) {
    for (std::int64_t i = 0; i < size; ++i) sums[i] += sums[item * size + i];
  }
  sums.resize(size);
  return sums;
}

template <typename Arguments>
core::Channel channel_of(const BlockNormShape& shape, const Arguments& arguments, std::int64_t c) {
  return core::channel_of(static_cast<double>(shape.samples * shape.positions),
                          arguments.moments[c], arguments.moments[shape.channels + c],
                          arguments.epsilon, arguments.scale[c]);
}

// The numbers of y = slope * (x - centre) + level, in T as forward and backward take them.
template <typename T, typename Arguments>
PerChannel<T> outputs_of(const BlockNormShape& shape, const Arguments& arguments) {
  PerChannel<T> numbers(shape);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::Channel channel = channel_of(shape, arguments, c);
    const double slope = channel.scale * channel.rstd;
    numbers.centre[c] = static_cast<T>(channel.mean);
    numbers.slope[c] = static_cast<T>(slope);
    numbers.level[c] =
        static_cast<T>(core::recentred(channel, static_cast<double>(arguments.offset[c]), slope,
                                       static_cast<double>(numbers.centre[c])));
  }
  return numbers;
}

template <typename T>
void run_on(const BlockNormShape& shape, const BlockMoments<T>& moments,
            InstructionSet instruction_set, const ParallelFor& parallel_for) {
  // A value of the first sample is near the mean, as far as a variance can tell.
  std::vector<T> shift(shape.channels);
  for (std::int64_t c = 0; c < shape.channels; ++c) shift[c] = moments.x[c * kBlockLanes];
  BlockRows<T> tensors{};
  tensors.x = moments.x;
  tensors.centre = shift.data();
  const std::vector<double> sums = add_up<T>(
      shape, tensors, 1, dispatch<BlockNormKernels<T>>(instruction_set).moments, parallel_for);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::MeanAndVariance found =
        core::moments_of(static_cast<double>(shape.samples * shape.positions),
                         static_cast<double>(shift[c]), sums[c], sums[shape.channels + c]);
    moments.moments[c] = found.mean;
    moments.moments[shape.channels + c] = found.variance;
    moments.mean[c] = static_cast<T>(found.mean);
    moments.variance[c] = static_cast<T>(found.variance);
  }
}

template <typename T>
void run_on(const BlockNormShape& shape, const BlockNorm<T>& norm, InstructionSet instruction_set,
            const ParallelFor& parallel_for) {
  const PerChannel<T> numbers = outputs_of<T>(shape, norm);
  BlockRows<T> tensors{};
  tensors.x = norm.x;
  tensors.residual = norm.residual;
  tensors.centre = numbers.centre.data();
  tensors.slope = numbers.slope.data();
  tensors.level = numbers.level.data();
  tensors.ceiling = static_cast<T>(norm.ceiling);
  tensors.result = norm.y;
  const auto kernel = dispatch<BlockNormKernels<T>>(instruction_set)
                          .norm[norm.residual != nullptr ? 2
                                : norm.relu              ? 1
                                                         : 0];
  for_rows<T>(shape, tensors, 2, parallel_for,
              [&](std::int64_t, const BlockRows<T>& rows) { kernel(rows); });
}

template <typename T>
void run_on(const BlockNormShape& shape, const BlockNormGradient<T>& gradient,
            InstructionSet instruction_set, const ParallelFor& parallel_for) {
  PerChannel<T> numbers = outputs_of<T>(shape, gradient);
  const bool residual = gradient.residual != nullptr;
  const auto kernels = dispatch<BlockNormKernels<T>>(instruction_set);
  BlockRows<T> tensors{};
  tensors.x = gradient.x;
  tensors.residual = gradient.residual;
  tensors.gradient = gradient.y_gradient;
  tensors.centre = numbers.centre.data();
  tensors.slope = numbers.slope.data();
  tensors.level = numbers.level.data();
  tensors.ceiling = static_cast<T>(gradient.ceiling);
  tensors.result = gradient.residual_gradient;
  const std::vector<double> sums = add_up<T>(shape, tensors, residual ? 4 : 2,
                                             kernels.gradient[residual        ? 2
                                                              : gradient.relu ? 1
                                                                              : 0],
                                             parallel_for);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::Channel channel = channel_of(shape, gradient, c);
    const auto centre = static_cast<double>(numbers.centre[c]);
    const double sum_g = sums[c];
    const double sum_gd = sums[shape.channels + c] + sum_g * (centre - channel.mean);
    const core::XGradient by = core::x_gradient_of(channel, sum_g, sum_gd);
    numbers.by_gradient[c] = static_cast<T>(by.by_gradient);
    numbers.by_d[c] = static_cast<T>(by.by_d);
    numbers.constant[c] = static_cast<T>(core::recentred(channel, by.constant, by.by_d, centre));
    gradient.scale_gradient[c] = static_cast<T>(channel.rstd * sum_gd);
    gradient.offset_gradient[c] = static_cast<T>(sum_g);
  }
  tensors.by_gradient = numbers.by_gradient.data();
  tensors.by_d = numbers.by_d.data();
  tensors.constant = numbers.constant.data();
  // What the ReLU has let through is there already.
  if (residual) tensors.gradient = gradient.residual_gradient;
  tensors.result = gradient.x_gradient;
  const auto kernel = kernels.x_gradient[gradient.relu && !residual ? 1 : 0];
  for_rows<T>(shape, tensors, 3, parallel_for,
              [&](std::int64_t, const BlockRows<T>& rows) { kernel(rows); });
}

}  // namespace

template <typename Arguments>
void run(const BlockNormShape& shape, const Arguments& arguments, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  run_on(shape, arguments, instruction_set, parallel_for);
}

#define INSTANTIATE(Arguments) \
  template void run(const BlockNormShape&, const Arguments&, InstructionSet, const ParallelFor&)
INSTANTIATE(BlockMoments<float>);
INSTANTIATE(BlockMoments<double>);
INSTANTIATE(BlockNorm<float>);
INSTANTIATE(BlockNorm<double>);
INSTANTIATE(BlockNormGradient<float>);
INSTANTIATE(BlockNormGradient<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

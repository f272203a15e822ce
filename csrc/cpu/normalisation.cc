#include "cpu/normalisation.h"

#include <algorithm>

#include "core/normalisation.h"
#include "cpu/aligned_buffer.h"
#include "cpu/normalisation_kernels.h"

namespace prospr::cpu {
namespace {

// Elements of a tensor that one thread sums in one go. It is part of the definition of the result,
// so it may not depend on the number of threads.
constexpr std::int64_t kBlock = 1 << 16;
// Rows of fewer channels are taken several at a time, as columns of one row.
constexpr std::int64_t kColumns = 128;
// Bytes that a thread reads or writes per nanosecond.
constexpr double kSpeed = 16;

// Tensors [rows, channels] as [wide, columns] and the `rest` of the rows.
struct Folded {
  explicit Folded(const BatchShape& shape)
      : times(std::min(shape.rows, (kColumns + shape.channels - 1) / shape.channels)),
        columns(times * shape.channels),
        wide(shape.rows / times),
        rest(shape.rows % times) {}

  std::int64_t times;  // rows per wide one
  std::int64_t columns;
  std::int64_t wide;
  std::int64_t rest;
};

template <typename T>
void repeat(T* values, std::int64_t channels, std::int64_t times) {
  for (std::int64_t i = 1; i < times; ++i) {
    std::copy(values, values + channels, values + i * channels);
  }
}

// Sums over the rows of `kCount` tensors, the last of them x; [kSums, channels], to `result`.
template <int kCount, typename T>
void add_up(const BatchShape& shape, const T* const (&tensors)[kCount], const double* centre,
            double* result, InstructionSet instruction_set, const ParallelFor& parallel_for) {
  constexpr int kOf = kSums[kCount - 1];
  const Folded folded(shape);
  const std::int64_t rows = std::max<std::int64_t>(1, kBlock / folded.columns);
  const std::int64_t blocks = (folded.wide + rows - 1) / rows;
  AlignedBuffer<double> centres(folded.columns);
  std::copy(centre, centre + shape.channels, centres.data());
  repeat(centres.data(), shape.channels, folded.times);
  AlignedBuffer<double> sums((blocks + 1) * kOf * folded.columns);
  const auto kernel = dispatch<NormalisationKernels<T>>(instruction_set).sums[kCount - 1];
  const auto of_rows = [&](std::int64_t first, std::int64_t count, std::int64_t columns,
                           double* to) {
    ColumnTensors<T> x{count, columns, {}};
    for (int i = 0; i < kCount; ++i) x.tensors[i] = tensors[i] + first * folded.columns;
    kernel(x, centres.data(), to);
  };
  parallel_for(blocks, static_cast<double>(rows * folded.columns * kCount * sizeof(T)) / kSpeed,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t block = begin; block < end; ++block) {
                   const std::int64_t first = block * rows;
                   of_rows(first, std::min(rows, folded.wide - first), folded.columns,
                           sums.data() + block * kOf * folded.columns);
                 }
               });
  double* const rest = sums.data() + blocks * kOf * folded.columns;
  of_rows(folded.wide, folded.rest, shape.channels, rest);  // zeros, if there is none

  for (std::int64_t block = 1; block < blocks; ++block) {
    const double* const from = sums.data() + block * kOf * folded.columns;
    for (std::int64_t i = 0; i < kOf * folded.columns; ++i) sums.data()[i] += from[i];
  }
  for (int sum = 0; sum < kOf; ++sum) {
    double* const to = result + sum * shape.channels;
    std::copy(rest + sum * shape.channels, rest + (sum + 1) * shape.channels, to);
    for (std::int64_t time = 0; time < folded.times; ++time) {
      const double* const from = sums.data() + sum * folded.columns + time * shape.channels;
      for (std::int64_t c = 0; c < shape.channels; ++c) to[c] += from[c];
    }
  }
}

// A centre per channel, and for each result kCount coefficients and a constant, in the tensors'
// type.
template <int kCount, typename T>
class Combination {
  static constexpr int kOf = kResults[kCount - 1];
  static constexpr int kRows = kCount + 1;

 public:
  explicit Combination(const BatchShape& shape)
      : shape_(shape), folded_(shape), values_((1 + kOf * kRows) * folded_.columns) {}

  // The coefficients of result r for channel c: of the tensors before x, of x - mean, and of 1.
  void set(int r, std::int64_t c, const core::Channel& channel, const double (&by)[kCount + 1]) {
    const T centre = static_cast<T>(channel.mean);
    values_.data()[c] = centre;
    for (int i = 0; i < kCount; ++i) row(1 + r * kRows + i)[c] = static_cast<T>(by[i]);
    row(1 + r * kRows + kCount)[c] = static_cast<T>(
        core::recentred(channel, by[kCount], by[kCount - 1], static_cast<double>(centre)));
  }

  void apply(const T* const (&tensors)[kCount], T* const (&results)[kOf],
             InstructionSet instruction_set, const ParallelFor& parallel_for) {
    for (int i = 0; i < 1 + kOf * kRows; ++i) repeat(row(i), shape_.channels, folded_.times);
    // The rows that are left over are shorter, and so is then the distance between coefficients.
    AlignedBuffer<T> narrow((1 + kOf * kRows) * shape_.channels);
    for (int i = 0; i < 1 + kOf * kRows; ++i) {
      std::copy(row(i), row(i) + shape_.channels, narrow.data() + i * shape_.channels);
    }
    const auto kernel = dispatch<NormalisationKernels<T>>(instruction_set).combine[kCount - 1];
    const auto on_rows = [&](std::int64_t first, std::int64_t rows, std::int64_t columns,
                             const T* values) {
      ColumnTensors<T> x{rows, columns, {}};
      T* to[kOf];
      for (int i = 0; i < kCount; ++i) x.tensors[i] = tensors[i] + first * folded_.columns;
      for (int r = 0; r < kOf; ++r) to[r] = results[r] + first * folded_.columns;
      kernel(x, values, values + columns, to);
    };
    const auto bytes = static_cast<double>(folded_.columns * (kCount + kOf) * sizeof(T));
    parallel_for(folded_.wide, bytes / kSpeed, [&](std::int64_t begin, std::int64_t end) {
      on_rows(begin, end - begin, folded_.columns, values_.data());
    });
    on_rows(folded_.wide, folded_.rest, shape_.channels, narrow.data());
  }

 private:
  T* row(int i) { return values_.data() + i * folded_.columns; }

  BatchShape shape_;
  Folded folded_;
  AlignedBuffer<T> values_;
};

template <typename Arguments>
core::Channel channel_of(const BatchShape& shape, const Arguments& arguments, std::int64_t c) {
  return core::channel_of(static_cast<double>(shape.rows), arguments.moments[c],
                          arguments.moments[shape.channels + c], arguments.epsilon,
                          arguments.scale[c]);
}

}  // namespace

template <typename T>
void run(const BatchShape& shape, const BatchMoments<T>& moments, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  // The first row is near the mean, as far as a variance can tell.
  AlignedBuffer<double> shift(shape.channels);
  std::copy(moments.x, moments.x + shape.channels, shift.data());
  AlignedBuffer<double> sums(2 * shape.channels);
  add_up<1, T>(shape, {moments.x}, shift.data(), sums.data(), instruction_set, parallel_for);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::MeanAndVariance found =
        core::moments_of(static_cast<double>(shape.rows), shift.data()[c], sums.data()[c],
                         sums.data()[shape.channels + c]);
    moments.moments[c] = found.mean;
    moments.moments[shape.channels + c] = found.variance;
    moments.mean[c] = static_cast<T>(found.mean);
    moments.variance[c] = static_cast<T>(found.variance);
  }
}

template <typename T>
void run(const BatchShape& shape, const BatchNorm<T>& norm, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  Combination<1, T> combination(shape);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::Channel channel = channel_of(shape, norm, c);
    combination.set(0, c, channel, {channel.scale * channel.rstd, norm.offset[c]});
  }
  combination.apply({norm.x}, {norm.y}, instruction_set, parallel_for);
}

template <typename T>
void run(const BatchShape& shape, const BatchNormGradient<T>& gradient,
         InstructionSet instruction_set, const ParallelFor& parallel_for) {
  AlignedBuffer<double> sums(2 * shape.channels);
  const T* const tensors[] = {gradient.y_gradient, gradient.x};
  add_up<2, T>(shape, tensors, gradient.moments, sums.data(), instruction_set, parallel_for);
  Combination<2, T> combination(shape);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::Channel channel = channel_of(shape, gradient, c);
    const double sum_g = sums.data()[c];
    const double sum_gd = sums.data()[shape.channels + c];
    const core::XGradient by = core::x_gradient_of(channel, sum_g, sum_gd);
    combination.set(0, c, channel, {by.by_gradient, by.by_d, by.constant});
    gradient.scale_gradient[c] = static_cast<T>(channel.rstd * sum_gd);
    gradient.offset_gradient[c] = static_cast<T>(sum_g);
  }
  combination.apply(tensors, {gradient.x_gradient}, instruction_set, parallel_for);
}

template <typename T>
void run(const BatchShape& shape, const BatchNormSecondGradient<T>& gradient,
         InstructionSet instruction_set, const ParallelFor& parallel_for) {
  AlignedBuffer<double> sums(5 * shape.channels);
  const T* const tensors[] = {gradient.u, gradient.y_gradient, gradient.x};
  add_up<3, T>(shape, tensors, gradient.moments, sums.data(), instruction_set, parallel_for);
  Combination<3, T> combination(shape);
  for (std::int64_t c = 0; c < shape.channels; ++c) {
    const core::Channel channel = channel_of(shape, gradient, c);
    const auto sum = [&](int i) { return sums.data()[i * shape.channels + c]; };
    const core::SecondGradient by =
        core::second_gradient_of(channel, {sum(0), sum(1), sum(2), sum(3), sum(4)},
                                 gradient.u_scale[c], gradient.u_offset[c]);
    combination.set(0, c, channel, {by.gradient_by_u, 0, by.gradient_by_d, by.gradient_constant});
    combination.set(1, c, channel, {by.x_by_u, by.x_by_g, by.x_by_d, by.x_constant});
    gradient.by_scale[c] = static_cast<T>(by.scale);
  }
  combination.apply(tensors, {gradient.by_y_gradient, gradient.by_x}, instruction_set,
                    parallel_for);
}

#define INSTANTIATE(Arguments) \
  template void run(const BatchShape&, const Arguments&, InstructionSet, const ParallelFor&)
INSTANTIATE(BatchMoments<float>);
INSTANTIATE(BatchMoments<double>);
INSTANTIATE(BatchNorm<float>);
INSTANTIATE(BatchNorm<double>);
INSTANTIATE(BatchNormGradient<float>);
INSTANTIATE(BatchNormGradient<double>);
INSTANTIATE(BatchNormSecondGradient<float>);
INSTANTIATE(BatchNormSecondGradient<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

// Three kernels: sums per column and slice of the rows; their sums per channel, and what follows
// from them for it; and what is computed of each element. A warp reads 32 neighbouring columns.
#include "core/normalisation.h"
#include "cuda/launch.h"
#include "cuda/normalisation.h"

namespace prospr::cuda {
namespace {

using core::kResults;
using core::kSums;

constexpr int kThreads = 256;
constexpr int kLanes = 32;                // columns of a block
constexpr int kRows = kThreads / kLanes;  // rows that it reads at a time
// A block that finishes sums has one channel, or of more channels so many that their sums, which
// are neighbours in memory, are what one access moves.
constexpr int kFew = 4;
constexpr std::int64_t kFewChannels = 32;
constexpr std::int64_t kColumns = 128;   // rows of fewer channels are taken several at a time
constexpr std::int64_t kLeastRows = 64;  // of a slice
constexpr std::int64_t kMostSlices = 256;
// Rows of a thread whose loads are under way together.
template <int kCount>
constexpr int kAtOnce = kCount == 1 ? 8 : 4;

// The elements [rows, channels] as [wide, columns], the last row of which may end early.
struct Cut {
  std::int64_t rows;
  std::int64_t channels;
  std::int64_t times;  // rows per wide one
  std::int64_t columns;
  std::int64_t slices;
  std::int64_t slice;  // wide rows of one
};

Cut cut_of(const BatchShape& shape) {
  Cut cut{};
  cut.rows = shape.rows;
  cut.channels = shape.channels;
  cut.times = std::min(shape.rows, ceil_divide(kColumns, shape.channels));
  cut.columns = cut.times * shape.channels;
  const std::int64_t wide = ceil_divide(shape.rows, cut.times);
  const std::int64_t most = std::min(kMostSlices, kMostBlocks / ceil_divide(cut.columns, kLanes));
  const std::int64_t slices =
      std::min(ceil_divide(wide, kLeastRows), std::max<std::int64_t>(1, most));
  cut.slice = ceil_divide(wide, slices);
  cut.slices = ceil_divide(wide, cut.slice);
  return cut;
}

// Where this thread's column has elements in its block's slice: from `begin` on, every kRows-th row
// before `end`.
struct Place {
  std::int64_t column;
  std::int64_t channel;
  std::int64_t begin;
  std::int64_t end;
};

__device__ Place place_of(const Cut& cut) {
  Place place{};
  place.column = static_cast<std::int64_t>(blockIdx.x) * kLanes + threadIdx.x % kLanes;
  if (place.column >= cut.columns) return place;
  place.channel = place.column % cut.channels;
  const std::int64_t first = blockIdx.y * cut.slice;
  const std::int64_t time = place.column / cut.channels;
  const std::int64_t all = (cut.rows - time + cut.times - 1) / cut.times;  // of the column
  place.begin = first + threadIdx.x / kLanes;
  place.end = first + cut.slice < all ? first + cut.slice : all;
  return place;
}

template <int kCount, typename T>
struct Tensors {
  const T* of[kCount];  // the last is x
};

template <int kCount, typename T>
struct Results {
  T* of[kResults[kCount - 1]];
};

// sums[slice, sum, column].
template <int kCount, typename T, typename Centre>
__global__ void __launch_bounds__(kThreads)
    sum_slices(Tensors<kCount, T> tensors, const Centre* centre, Cut cut, double* sums) {
  constexpr int kOf = kSums[kCount - 1];
  __shared__ double shared[kOf][kRows][kLanes];
  const Place place = place_of(cut);
  const double middle = place.column < cut.columns ? centre[place.channel] : 0;
  double total[kOf] = {};
#pragma unroll kAtOnce < kCount>
  for (std::int64_t row = place.begin; row < place.end; row += kRows) {
    const std::int64_t i = row * cut.columns + place.column;
    const double d = tensors.of[kCount - 1][i] - middle;
    if constexpr (kCount == 1) {
      total[0] += d;
      total[1] += d * d;
    } else {
#pragma unroll
      for (int k = 0; k < kCount - 1; ++k) {
        const double value = tensors.of[k][i];
        total[2 * k] += value;
        total[2 * k + 1] += value * d;
      }
      if constexpr (kCount == 3) {
        total[4] += static_cast<double>(tensors.of[0][i]) * static_cast<double>(tensors.of[1][i]);
      }
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll
  for (int sum = 0; sum < kOf; ++sum) shared[sum][threadIdx.x / kLanes][lane] = total[sum];
  __syncthreads();
  // A warp adds up one sum of the block's rows.
  const int sum = static_cast<int>(threadIdx.x) / kLanes;
  if (sum >= kOf || place.column >= cut.columns) return;
  double of_rows = 0;
#pragma unroll
  for (int row = 0; row < kRows; ++row) of_rows += shared[sum][row][lane];
  sums[(blockIdx.y * kOf + sum) * cut.columns + place.column] = of_rows;
}

// For one channel: a centre, and for each result kCount coefficients and a constant, in rows of
// `channels`.
template <int kCount, typename T>
struct Coefficients {
  T* values;
  std::int64_t channels;

  // Of result r: of the tensors before x, of x - mean, and of 1.
  __device__ void set(int r, std::int64_t c, const core::Channel& channel,
                      const double (&by)[kCount + 1]) const {
    const T centre = static_cast<T>(channel.mean);
    values[c] = centre;
    T* const of_result = values + (1 + r * (kCount + 1)) * channels + c;
    for (int i = 0; i < kCount; ++i) of_result[i * channels] = static_cast<T>(by[i]);
    of_result[kCount * channels] = static_cast<T>(
        core::recentred(channel, by[kCount], by[kCount - 1], static_cast<double>(centre)));
  }
};

template <typename Arguments>
__device__ core::Channel channel_of(const Cut& cut, const Arguments& a, std::int64_t c) {
  return core::channel_of(static_cast<double>(cut.rows), a.moments[c], a.moments[cut.channels + c],
                          a.epsilon, a.scale[c]);
}

template <typename T>
__device__ void finish_channel(const BatchMoments<T>& a, const Cut& cut, std::int64_t c,
                               const double* sums, T*) {
  const core::MeanAndVariance found = core::moments_of(
      static_cast<double>(cut.rows), static_cast<double>(a.x[c]), sums[0], sums[1]);
  a.moments[c] = found.mean;
  a.moments[cut.channels + c] = found.variance;
  a.mean[c] = static_cast<T>(found.mean);
  a.variance[c] = static_cast<T>(found.variance);
}

template <typename T>
__device__ void finish_channel(const BatchNorm<T>& a, const Cut& cut, std::int64_t c, const double*,
                               T* values) {
  const core::Channel channel = channel_of(cut, a, c);
  Coefficients<1, T>{values, cut.channels}.set(0, c, channel,
                                               {channel.scale * channel.rstd, a.offset[c]});
}

template <typename T>
__device__ void finish_channel(const BatchNormGradient<T>& a, const Cut& cut, std::int64_t c,
                               const double* sums, T* values) {
  const core::Channel channel = channel_of(cut, a, c);
  const core::XGradient by = core::x_gradient_of(channel, sums[0], sums[1]);
  Coefficients<2, T>{values, cut.channels}.set(0, c, channel,
                                               {by.by_gradient, by.by_d, by.constant});
  a.scale_gradient[c] = static_cast<T>(channel.rstd * sums[1]);
  a.offset_gradient[c] = static_cast<T>(sums[0]);
}

template <typename T>
__device__ void finish_channel(const BatchNormSecondGradient<T>& a, const Cut& cut, std::int64_t c,
                               const double* sums, T* values) {
  const core::Channel channel = channel_of(cut, a, c);
  const core::SecondGradient by = core::second_gradient_of(
      channel, {sums[0], sums[1], sums[2], sums[3], sums[4]}, static_cast<double>(a.u_scale[c]),
      static_cast<double>(a.u_offset[c]));
  const Coefficients<3, T> coefficients{values, cut.channels};
  coefficients.set(0, c, channel, {by.gradient_by_u, 0, by.gradient_by_d, by.gradient_constant});
  coefficients.set(1, c, channel, {by.x_by_u, by.x_by_g, by.x_by_d, by.x_constant});
  a.by_scale[c] = static_cast<T>(by.scale);
}

// A block has kChannels channels; as many threads of each add up its sums of slices and columns, in
// pairs in the end, and one of them goes on.
template <int kChannels, int kOf, typename T, typename Arguments>
__global__ void __launch_bounds__(kThreads)
    finish(Arguments arguments, Cut cut, const double* sums, T* values) {
  constexpr int kParts = kThreads / kChannels;
  __shared__ double shared[kOf][kParts][kChannels];
  const int mine = static_cast<int>(threadIdx.x) % kChannels;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kChannels + mine;
  const int part = static_cast<int>(threadIdx.x) / kChannels;
  double total[kOf] = {};
  if (c < cut.channels && sums != nullptr) {
    // At most kMostSlices * kColumns.
    const int all = static_cast<int>(cut.slices * cut.times);
    const int times = static_cast<int>(cut.times);
#pragma unroll 4
    for (int i = part; i < all; i += kParts) {
      const std::int64_t slice = i / times;
      const std::int64_t column = i % times * cut.channels + c;
#pragma unroll
      for (int sum = 0; sum < kOf; ++sum) {
        total[sum] += sums[(slice * kOf + sum) * cut.columns + column];
      }
    }
  }
#pragma unroll
  for (int sum = 0; sum < kOf; ++sum) shared[sum][part][mine] = total[sum];
  for (int half = kParts / 2; half > 0; half /= 2) {
    __syncthreads();
    if (part >= half) continue;
#pragma unroll
    for (int sum = 0; sum < kOf; ++sum) {
      total[sum] += shared[sum][part + half][mine];
      shared[sum][part][mine] = total[sum];
    }
  }
  if (part != 0 || c >= cut.channels) return;
  finish_channel(arguments, cut, c, total, values);
}

template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads)
    combine(Tensors<kCount, T> tensors, const T* values, Cut cut, Results<kCount, T> results) {
  constexpr int kOf = kResults[kCount - 1];
  const Place place = place_of(cut);
  if (place.column >= cut.columns) return;
  const T centre = values[place.channel];
  T by[kOf][kCount + 1];
#pragma unroll
  for (int i = 0; i < kOf * (kCount + 1); ++i) {
    by[i / (kCount + 1)][i % (kCount + 1)] = values[(1 + i) * cut.channels + place.channel];
  }
#pragma unroll kAtOnce < kCount>
  for (std::int64_t row = place.begin; row < place.end; row += kRows) {
    const std::int64_t i = row * cut.columns + place.column;
    T from[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) from[k] = tensors.of[k][i];
    from[kCount - 1] -= centre;
#pragma unroll
    for (int r = 0; r < kOf; ++r) {
      T sum = by[r][kCount - 1] * from[kCount - 1] + by[r][kCount];
#pragma unroll
      for (int k = 0; k < kCount - 1; ++k) sum += by[r][k] * from[k];
      results.of[r][i] = sum;
    }
  }
}

// What each op sums, and combines. Of BatchNorm nothing is summed, of BatchMoments nothing
// combined.
template <typename T>
Tensors<1, T> tensors_of(const BatchMoments<T>& a) {
  return {{a.x}};
}
template <typename T>
Tensors<1, T> tensors_of(const BatchNorm<T>& a) {
  return {{a.x}};
}
template <typename T>
Tensors<2, T> tensors_of(const BatchNormGradient<T>& a) {
  return {{a.y_gradient, a.x}};
}
template <typename T>
Tensors<3, T> tensors_of(const BatchNormSecondGradient<T>& a) {
  return {{a.u, a.y_gradient, a.x}};
}

std::int64_t bytes_of_sums(const Cut& cut, int count) {
  return cut.slices * kSums[count - 1] * cut.columns * static_cast<std::int64_t>(sizeof(double));
}

template <int kCount, typename T>
std::int64_t bytes_for(const BatchShape& shape, const Tensors<kCount, T>&) {
  const std::int64_t rows = 1 + kResults[kCount - 1] * (kCount + 1);
  return bytes_of_sums(cut_of(shape), kCount) +
         rows * shape.channels * static_cast<std::int64_t>(sizeof(T));
}

template <int kCount, typename T, typename Centre>
std::string add_up(const char* name, const Tensors<kCount, T>& tensors, const Centre* centre,
                   const Cut& cut, double* sums, Stream stream) {
  const dim3 blocks(static_cast<unsigned>(ceil_divide(cut.columns, kLanes)),
                    static_cast<unsigned>(cut.slices));
  return launch(name, sum_slices<kCount, T, Centre>, blocks, kThreads, stream, tensors, centre, cut,
                sums);
}

template <int kCount, typename T, typename Arguments>
std::string finish_all(const char* name, const Tensors<kCount, T>&, const Arguments& arguments,
                       const Cut& cut, const double* sums, T* values, Stream stream) {
  constexpr int kOf = kSums[kCount - 1];
  if (cut.channels <= kFewChannels) {
    return launch(name, finish<1, kOf, T, Arguments>, static_cast<unsigned>(cut.channels), kThreads,
                  stream, arguments, cut, sums, values);
  }
  return launch(name, finish<kFew, kOf, T, Arguments>,
                static_cast<unsigned>(ceil_divide(cut.channels, kFew)), kThreads, stream, arguments,
                cut, sums, values);
}

template <int kCount, typename T>
std::string combine_all(const char* name, const Tensors<kCount, T>& tensors, const T* values,
                        const Cut& cut, const Results<kCount, T>& results, Stream stream) {
  const dim3 blocks(static_cast<unsigned>(ceil_divide(cut.columns, kLanes)),
                    static_cast<unsigned>(cut.slices));
  return launch(name, combine<kCount, T>, blocks, kThreads, stream, tensors, values, cut, results);
}

template <int kCount, typename T, typename Arguments>
std::string sum_and_combine(const char* name, const BatchShape& shape,
                            const Tensors<kCount, T>& tensors, const Arguments& arguments,
                            const Results<kCount, T>& results, void* scratch, Stream stream) {
  const Cut cut = cut_of(shape);
  auto* const sums = static_cast<double*>(scratch);
  auto* const values =
      reinterpret_cast<T*>(static_cast<char*>(scratch) + bytes_of_sums(cut, kCount));
  std::string wrong = add_up(name, tensors, arguments.moments, cut, sums, stream);
  if (wrong.empty()) wrong = finish_all(name, tensors, arguments, cut, sums, values, stream);
  if (wrong.empty()) wrong = combine_all(name, tensors, values, cut, results, stream);
  return wrong;
}

}  // namespace

template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchMoments<T>& a) {
  return bytes_for(shape, tensors_of(a));
}
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNorm<T>& a) {
  return bytes_for(shape, tensors_of(a));
}
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNormGradient<T>& a) {
  return bytes_for(shape, tensors_of(a));
}
template <typename T>
std::int64_t scratch_bytes(const BatchShape& shape, const BatchNormSecondGradient<T>& a) {
  return bytes_for(shape, tensors_of(a));
}

template <typename T>
std::string run(const BatchShape& shape, const BatchMoments<T>& a, void* scratch, Stream stream) {
  const char* const name = "batch_moments";
  const Cut cut = cut_of(shape);
  auto* const sums = static_cast<double*>(scratch);
  // The first row is near the mean, as far as a variance can tell.
  const std::string wrong = add_up(name, tensors_of(a), a.x, cut, sums, stream);
  return wrong.empty()
             ? finish_all(name, tensors_of(a), a, cut, sums, static_cast<T*>(nullptr), stream)
             : wrong;
}

template <typename T>
std::string run(const BatchShape& shape, const BatchNorm<T>& a, void* scratch, Stream stream) {
  const char* const name = "batch_norm";
  const Cut cut = cut_of(shape);
  auto* const values = static_cast<T*>(scratch);
  const double* const no_sums = nullptr;
  const std::string wrong = finish_all(name, tensors_of(a), a, cut, no_sums, values, stream);
  return wrong.empty() ? combine_all<1, T>(name, tensors_of(a), values, cut, {{a.y}}, stream)
                       : wrong;
}

template <typename T>
std::string run(const BatchShape& shape, const BatchNormGradient<T>& a, void* scratch,
                Stream stream) {
  return sum_and_combine<2, T>("batch_norm_gradient", shape, tensors_of(a), a, {{a.x_gradient}},
                               scratch, stream);
}

template <typename T>
std::string run(const BatchShape& shape, const BatchNormSecondGradient<T>& a, void* scratch,
                Stream stream) {
  return sum_and_combine<3, T>("batch_norm_second_gradient", shape, tensors_of(a), a,
                               {{a.by_y_gradient, a.by_x}}, scratch, stream);
}

#define INSTANTIATE(Arguments)                                              \
  template std::int64_t scratch_bytes(const BatchShape&, const Arguments&); \
  template std::string run(const BatchShape&, const Arguments&, void*, Stream)
INSTANTIATE(BatchMoments<float>);
INSTANTIATE(BatchMoments<double>);
INSTANTIATE(BatchNorm<float>);
INSTANTIATE(BatchNorm<double>);
INSTANTIATE(BatchNormGradient<float>);
INSTANTIATE(BatchNormGradient<double>);
INSTANTIATE(BatchNormSecondGradient<float>);
INSTANTIATE(BatchNormSecondGradient<double>);
#undef INSTANTIATE

}  // namespace prospr::cuda

#include "cuda/curvature_slices.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kThreads = 256;
// Many slices are shared by so many threads, as one after the other they would take longer than the
// sums themselves.
constexpr int kMostWays = 16;
constexpr std::int64_t kSlicesOfWay = 4;

// How many threads share a sum's slices; depends on their count only.
int ways_for(std::int64_t count) {
  int ways = 1;
  while (ways < kMostWays && count >= 2 * ways * kSlicesOfWay) ways *= 2;
  return ways;
}

template <typename Sum>
__global__ void __launch_bounds__(kThreads)
    add_all(const Sum* slices, std::int64_t count, std::int64_t size, int ways, Sum* curvature) {
  __shared__ Sum parts[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int width = kThreads / ways;
  const int way = thread / width;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * width;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * width; first < size;
       first += step) {
    const std::int64_t i = first + thread % width;
    Sum sum = 0;
    if (i < size) {
#pragma unroll 8
      for (std::int64_t slice = way; slice < count; slice += ways) sum += slices[slice * size + i];
    }
    parts[thread] = sum;
    __syncthreads();
    if (way == 0 && i < size) {
      for (int other = 1; other < ways; ++other) sum += parts[other * width + thread];
      curvature[i] += sum < 0 ? Sum(0) : sum;  // a sum of squares that roundings left below zero
    }
    __syncthreads();
  }
}

}  // namespace

template <typename Sum>
std::string add_slices(const Sum* slices, std::int64_t count, std::int64_t size, Sum* curvature,
                       Stream stream) {
  if (count == 1) return "";
  const int ways = ways_for(count);
  return launch("add_slices", add_all<Sum>, blocks_for(size, kThreads / ways), kThreads, stream,
                slices, count, size, ways, curvature);
}

template std::string add_slices(const float*, std::int64_t, std::int64_t, float*, Stream);
template std::string add_slices(const double*, std::int64_t, std::int64_t, double*, Stream);

}  // namespace prospr::cuda

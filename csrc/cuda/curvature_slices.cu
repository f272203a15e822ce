#include "cuda/curvature_slices.h"
#include "cuda/launch.h"

namespace prospr::cuda {
namespace {

constexpr int kThreads = 256;

template <typename Sum>
__global__ void __launch_bounds__(kThreads)
    add_all(const Sum* slices, std::int64_t count, std::int64_t size, Sum* curvature) {
  for (std::int64_t i = global_thread(); i < size; i += global_threads()) {
    Sum sum = slices[i];
    // Reads that do not wait for one another.
#pragma unroll 16
    for (std::int64_t slice = 1; slice < count; ++slice) sum += slices[slice * size + i];
    curvature[i] += sum;
  }
}

}  // namespace

template <typename Sum>
std::string add_slices(const Sum* slices, std::int64_t count, std::int64_t size, Sum* curvature,
                       Stream stream) {
  if (count == 1) return "";
  return launch("add_slices", add_all<Sum>, blocks_for(size, kThreads), kThreads, stream, slices,
                count, size, curvature);
}

template std::string add_slices(const float*, std::int64_t, std::int64_t, float*, Stream);
template std::string add_slices(const double*, std::int64_t, std::int64_t, double*, Stream);

}  // namespace prospr::cuda

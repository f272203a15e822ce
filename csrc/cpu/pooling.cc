#include "cpu/pooling.h"

#include <limits>

#include "cpu/pooling_kernels.h"

namespace prospr::cpu {
namespace {

// Elements of an image that a thread goes through in a nanosecond.
constexpr double kSpeed = 2;
constexpr std::int64_t kMostElements = std::numeric_limits<std::uint8_t>::max() + 1;

}  // namespace

std::string check(const Windows& windows) {
  const std::int64_t height = windows.window_height;
  const std::int64_t width = windows.window_width;
  const std::string window = std::to_string(height) + " x " + std::to_string(width);
  if (height < 1 || width < 1 || height > kMostElements || width > kMostElements / height) {
    return "a window of " + window + " was given; it must have 1 to " +
           std::to_string(kMostElements) + " elements";
  }
  if (windows.height < height || windows.width < width) {
    return "a window of " + window + " does not fit into an image of " +
           std::to_string(windows.height) + " x " + std::to_string(windows.width);
  }
  return "";
}

template <typename Map>
void run(const Windows& windows, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const PoolingKernel<Map> kernel =
      choose(instruction_set, baseline::pooling_kernel<Map>, avx2::pooling_kernel<Map>,
             avx512::pooling_kernel<Map>)();
  if (windows.channels == 0) return;  // however many rows
  const double elements = static_cast<double>(windows.window_height) *
                          static_cast<double>(windows.width) *
                          static_cast<double>(windows.channels);
  parallel_for(windows.samples * windows.rows(), elements / kSpeed,
               [&](std::int64_t begin, std::int64_t end) { kernel(windows, map, begin, end); });
}

#define INSTANTIATE(Map) \
  template void run(const Windows&, const Map&, InstructionSet, const ParallelFor&)
INSTANTIATE(MaxPool<float>);
INSTANTIATE(MaxPool<double>);
INSTANTIATE(MaxUnpool<float>);
INSTANTIATE(MaxUnpool<double>);
INSTANTIATE(GatherPooled<float>);
INSTANTIATE(GatherPooled<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

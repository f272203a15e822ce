#include "cpu/pooling.h"

#include "cpu/pooling_kernels.h"

namespace prospr::cpu {
namespace {

// Elements of an image that a thread reads per nanosecond.
constexpr double kSpeed = 2;

}  // namespace

template <typename Map>
void run(const Windows& windows, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const auto kernel = dispatch<PoolingKernel<Map>>(instruction_set);
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

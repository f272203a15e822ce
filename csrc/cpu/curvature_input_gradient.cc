#include <algorithm>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/curvature.h"
#include "cpu/curvature_input_gradient_kernels.h"
#include "cpu/curvature_offsets.h"

namespace prospr::cpu {
namespace {

// Tasks to spread over threads, where there are so few samples that columns are cut too.
constexpr std::int64_t kWantedTasks = 32;
// Columns that share a pass over the kernel at least.
constexpr std::int64_t kLeastColumns = 4;

// The rough speed of one core, in multiply-adds per nanosecond.
constexpr double kSpeed = 10;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::vector<Run> runs_of(const std::vector<std::int64_t>& offsets, std::int64_t lanes) {
  std::vector<Run> runs;
  std::int64_t packed = 0;
  for (std::int64_t k = 0; k < static_cast<std::int64_t>(offsets.size()); ++k) {
    if (k > 0 && offsets[k] == offsets[k - 1] + 1 && runs.back().length < kRunVectors * lanes) {
      ++runs.back().length;
    } else {
      if (k > 0) packed += round_up(runs.back().length, lanes);
      runs.push_back({offsets[k], k, 1, packed});
    }
  }
  return runs;
}

}  // namespace

template <typename T>
void run(const ConvInputGradient<T>& conv, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  const auto kernels = dispatch<InputGradientKernels<T>>(instruction_set);
  const ConvShape& shape = conv.shape;
  const std::vector<std::int64_t> positions = position_offsets(shape);
  const std::vector<std::int64_t> patch = patch_offsets(shape);
  const std::vector<Run> runs = runs_of(patch, kernels.lanes);
  const std::vector<std::int32_t> windows = windows_of_positions(shape, conv.factors.windows);

  InputGradientPlan<T> plan{};
  plan.conv = conv;
  plan.padded_sample = padded_sample_size(shape);
  plan.pixels = static_cast<std::int64_t>(positions.size());
  plan.position_offsets = positions.data();
  plan.windows = windows.data();
  plan.runs = runs.data();
  plan.run_count = static_cast<std::int64_t>(runs.size());
  plan.packed_channel = runs.back().packed + round_up(runs.back().length, kernels.lanes);
  AlignedBuffer<T> kernel(shape.output_channels * plan.packed_channel);
  plan.kernel = kernel.data();
  plan.blocks = std::max<std::int64_t>(
      1, std::min(kWantedTasks / shape.samples, shape.columns / kLeastColumns));

  const auto patch_size = static_cast<double>(patch.size());
  parallel_for(shape.output_channels, patch_size,
               [&](std::int64_t begin, std::int64_t end) { kernels.pack(plan, begin, end); });
  const double products = patch_size * static_cast<double>(shape.columns) *
                          static_cast<double>(plan.pixels * shape.output_channels);
  parallel_for(
      shape.samples * plan.blocks, products / kSpeed / static_cast<double>(plan.blocks),
      [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t columns = (shape.columns + plan.blocks - 1) / plan.blocks;
        AlignedBuffer<T> padded(columns * plan.padded_sample + kRunVectors * kernels.lanes);
        AlignedBuffer<T> values(shape.output_channels * columns);
        AlignedBuffer<std::int32_t> channels(shape.output_channels);
        kernels.backpropagate(plan, begin, end, {padded.data(), values.data(), channels.data()});
      });
}

template void run(const ConvInputGradient<float>&, InstructionSet, const ParallelFor&);
template void run(const ConvInputGradient<double>&, InstructionSet, const ParallelFor&);

}  // namespace prospr::cpu

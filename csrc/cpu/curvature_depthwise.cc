#include "cpu/curvature_depthwise.h"

#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/curvature_depthwise_kernels.h"
#include "cpu/curvature_offsets.h"

namespace prospr::cpu {
namespace {

// The rough speed of one core, in multiply-adds per nanosecond.
constexpr double kSpeed = 20;

}  // namespace

template <typename T>
void run_depthwise(const ConvCurvature<T>& conv, InstructionSet instruction_set,
                   const ParallelFor& parallel_for) {
  const auto kernels = dispatch<DepthwiseKernels<T>>(instruction_set);
  // One channel of a sample is as a sample of one channel.
  ConvShape channel = conv.shape;
  channel.input_channels = 1;
  channel.groups = 1;
  const std::vector<std::int64_t> positions = position_offsets(channel);
  const std::vector<std::int64_t> taps = patch_offsets(channel);
  const DepthwisePlan<T> plan{conv,
                              static_cast<std::int64_t>(positions.size()),
                              static_cast<std::int64_t>(taps.size()),
                              padded_sample_size(channel),
                              positions.data(),
                              taps.data()};
  const std::int64_t scratch_size =
      kernels.lanes * (plan.padded_pixels + plan.positions + plan.taps);
  const std::int64_t tasks = (conv.shape.output_channels + kernels.lanes - 1) / kernels.lanes;
  const auto products = static_cast<double>(conv.shape.samples * conv.shape.columns *
                                            plan.positions * plan.taps * kernels.lanes);
  parallel_for(tasks, products / kSpeed, [&](std::int64_t begin, std::int64_t end) {
    AlignedBuffer<core::Accumulator<T>> scratch(scratch_size);
    kernels.contract(plan, begin, end, scratch.data());
  });
}

template void run_depthwise(const ConvCurvature<float>&, InstructionSet, const ParallelFor&);
template void run_depthwise(const ConvCurvature<double>&, InstructionSet, const ParallelFor&);
template void run_depthwise(const ConvCurvature<core::Half>&, InstructionSet, const ParallelFor&);
template void run_depthwise(const ConvCurvature<core::BFloat16>&, InstructionSet,
                            const ParallelFor&);

}  // namespace prospr::cpu

#include <algorithm>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/curvature.h"
#include "cpu/curvature_conv_kernels.h"
#include "cpu/curvature_depthwise.h"
#include "cpu/curvature_offsets.h"

namespace prospr::cpu {
namespace {

constexpr std::int64_t kKibi = 1024;
constexpr std::int64_t kMebi = 1024 * kKibi;

// Bytes of packed patches that a task works on, and of unpacked factors: a part of a second-level
// cache.
constexpr std::int64_t kPanelBytes = 256 * kKibi;
// Bytes of copied inputs and factors at a time.
constexpr std::int64_t kChunkBytes = 4 * kMebi;
// Bytes of sums that are kept apart, so that samples too can be spread over threads.
constexpr std::int64_t kSliceBytes = 8 * kMebi;
// Patch tiles that share a pass over the factors, and tasks to spread over threads.
constexpr std::int64_t kMostTiles = 8;
constexpr std::int64_t kWantedTasks = 32;
// Pairs of more positions than these would not fit a cache.
constexpr std::int64_t kMostPairedPositions = 32;
// Factors of so few outputs, or for so small a patch, are not worth packing.
constexpr std::int64_t kNearOutputs = 32;
constexpr std::int64_t kFewElements = 128;

// The rough speed of one core, in multiply-adds per nanosecond.
constexpr double kSpeed = 20;

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t within(std::int64_t value, std::int64_t least, std::int64_t most) {
  return std::max(least, std::min(value, most));
}

// The pieces of a patch, tile by tile.
struct Pieces {
  std::vector<Piece> pieces;
  std::vector<std::int64_t> tile_begin;
};

Pieces pieces_of(const std::vector<std::int64_t>& offsets, std::int64_t tile_lanes,
                 std::int64_t longest) {
  Pieces result;
  std::int64_t length = 0;
  for (std::int64_t k = 0; k < static_cast<std::int64_t>(offsets.size()); ++k) {
    const std::int64_t lane = k % tile_lanes;
    if (lane == 0) result.tile_begin.push_back(static_cast<std::int64_t>(result.pieces.size()));
    if (lane != 0 && length < longest && offsets[k] == offsets[k - 1] + 1) {
      ++length;
    } else {
      result.pieces.push_back({lane, offsets[k]});
      length = 1;
    }
  }
  result.tile_begin.push_back(static_cast<std::int64_t>(result.pieces.size()));
  return result;
}

}  // namespace

template <typename T>
void run(const ConvCurvature<T>& conv, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  using Sum = core::Accumulator<T>;
  const ConvShape& shape = conv.shape;
  const bool pooled = conv.factors == nullptr;
  if (is_depthwise(shape) && !pooled) return run_depthwise(conv, instruction_set, parallel_for);

  const ConvKernels<T> kernels = dispatch<ConvKernels<T>>(instruction_set);
  const std::vector<std::int64_t> positions = position_offsets(shape);
  const std::vector<std::int64_t> patch = patch_offsets(shape);
  const Pieces pieces = pieces_of(patch, kernels.lanes, kernels.piece);

  ConvPlan<T> plan{};
  plan.conv = conv;
  plan.positions = static_cast<std::int64_t>(positions.size());
  plan.patch = static_cast<std::int64_t>(patch.size());
  plan.outputs = shape.output_channels / shape.groups;
  plan.padded_sample = padded_sample_size(shape);
  plan.position_offsets = positions.data();
  plan.pieces = pieces.pieces.data();
  plan.tile_pieces = pieces.tile_begin.data();

  // Multiply-adds of the tiles and, for pairs, of the sums over columns. About one pooled factor
  // per window is not zero.
  const auto sum_bytes = static_cast<std::int64_t>(sizeof(Sum));
  const std::int64_t pairs = plan.positions * (plan.positions + 1) / 2;
  const std::int64_t* const axes = conv.pooled.windows;
  const std::int64_t windows = axes[0] * axes[1] * axes[2];
  plan.pairwise =
      plan.positions <= kMostPairedPositions &&
      (pooled ? pairs <= shape.columns * windows
              : plan.positions * (plan.patch + shape.columns) < 2 * shape.columns * plan.patch);
  plan.entries = plan.pairwise ? pairs : plan.positions;
  plan.part = std::min(plan.positions, kPanelBytes / (kernels.lanes * sum_bytes));
  const bool in_parts = plan.part < plan.positions;
  const std::int64_t sample_size =
      shape.input_size[0] * shape.input_size[1] * shape.input_size[2] * shape.input_channels;
  plan.squares = plan.pairwise && plan.positions == 1 && plan.patch == sample_size &&
                 plan.patch == plan.padded_sample;
  plan.sparse = pooled && !plan.pairwise && !in_parts;
  // In parts, packing would copy all the factors of an image that is large.
  const bool packed =
      pooled || plan.pairwise || sizeof(T) < sizeof(Sum) ||
      (shape.output_channels > kNearOutputs && plan.patch > kFewElements && !in_parts);
  const std::int64_t packed_sample =
      !packed
          ? 0
          : shape.output_channels * (plan.pairwise ? plan.entries : shape.columns * plan.positions);
  const std::int64_t chunk =
      within(kChunkBytes / ((plan.padded_sample + packed_sample) * sum_bytes), 1, shape.samples);

  plan.patch_tiles = ceil_divide(plan.patch, kernels.lanes);
  plan.output_tiles = ceil_divide(plan.outputs, kTileOutputs);
  const std::int64_t tile_bytes = plan.entries * kernels.lanes * sum_bytes;
  plan.block = within(kPanelBytes / 2 / tile_bytes, 1,
                      within(plan.patch_tiles / kWantedTasks, 1, kMostTiles));
  plan.blocks = ceil_divide(plan.patch_tiles, plan.block);
  plan.panel = within(kPanelBytes / (plan.block * tile_bytes), 1, chunk);
  const std::int64_t column_bytes = plan.positions * shape.output_channels * sum_bytes;
  const std::int64_t product_bytes = plan.outputs * kernels.lanes * sum_bytes;
  plan.near_columns = in_parts ? within(kPanelBytes / product_bytes, 1, shape.columns)
                      : packed ? shape.columns
                               : within(kPanelBytes / column_bytes, 1, shape.columns);
  const std::int64_t kernel_size = plan.patch * shape.output_channels;
  plan.slices = within(std::min(kWantedTasks / (shape.groups * plan.blocks),
                                kSliceBytes / (kernel_size * sum_bytes)),
                       1, chunk);

  const std::int64_t inputs_size = plan.squares ? chunk * plan.patch_tiles * kernels.lanes
                                                : chunk * plan.padded_sample + kernels.piece;
  AlignedBuffer<Sum> inputs(inputs_size);
  AlignedBuffer<Sum> factors(chunk * packed_sample);
  const std::vector<std::int32_t> position_windows =
      pooled ? windows_of_positions(shape, conv.pooled.windows) : std::vector<std::int32_t>();
  const std::int64_t channels = plan.sparse ? chunk * shape.output_channels : 0;
  AlignedBuffer<std::int64_t> nonzero_counts(channels);
  AlignedBuffer<std::int32_t> nonzero_position(channels * plan.positions);
  const std::int64_t apart = plan.slices == 1 ? 0 : plan.slices * kernel_size;
  AlignedBuffer<Sum> slices(apart);
  if (!plan.squares) std::fill_n(inputs.data(), inputs_size, Sum(0));
  std::fill_n(slices.data(), apart, Sum(0));
  plan.inputs = inputs.data();
  plan.factors = packed ? factors.data() : nullptr;
  plan.windows = position_windows.data();
  plan.nonzero_counts = nonzero_counts.data();
  plan.nonzero_position = nonzero_position.data();
  plan.sums = plan.slices == 1 ? conv.curvature : slices.data();

  for (; plan.first_sample < shape.samples; plan.first_sample += chunk) {
    plan.samples = std::min(chunk, shape.samples - plan.first_sample);
    const auto copied = static_cast<double>(shape.columns * plan.positions * shape.output_channels *
                                            (plan.pairwise ? plan.positions : 1));
    parallel_for(plan.samples, copied / kSpeed, [&](std::int64_t begin, std::int64_t end) {
      AlignedBuffer<Sum> scratch(kernels.scratch_size(plan));
      kernels.prepare(plan, begin, end, scratch.data());
    });
    const std::int64_t tasks = plan.slices * shape.groups * plan.blocks;
    const auto products = static_cast<double>(plan.samples * plan.entries * kernel_size) *
                          (plan.pairwise ? 1.0 : static_cast<double>(shape.columns));
    parallel_for(tasks, products / kSpeed / static_cast<double>(tasks),
                 [&](std::int64_t begin, std::int64_t end) {
                   AlignedBuffer<Sum> scratch(kernels.scratch_size(plan));
                   kernels.contract(plan, begin, end, scratch.data());
                 });
  }
  if (plan.slices > 1) {
    parallel_for(kernel_size, static_cast<double>(plan.slices) / kSpeed,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t slice = 0; slice < plan.slices; ++slice) {
                     const Sum* const sums = slices.data() + slice * kernel_size;
                     for (std::int64_t i = begin; i < end; ++i) conv.curvature[i] += sums[i];
                   }
                 });
  }
}

template void run(const ConvCurvature<float>&, InstructionSet, const ParallelFor&);
template void run(const ConvCurvature<double>&, InstructionSet, const ParallelFor&);
template void run(const ConvCurvature<core::Half>&, InstructionSet, const ParallelFor&);
template void run(const ConvCurvature<core::BFloat16>&, InstructionSet, const ParallelFor&);

}  // namespace prospr::cpu

// The single-threaded loops of ConvCurvature. curvature_conv_kernels.cc is compiled once per
// instruction set.
//
// The contraction is a matrix product, patches times factors, whose result is squared and summed
// before it leaves the registers. Vector lanes run along the patch; a tile is kLanes patch elements
// by up to kTileOutputs outputs.
#pragma once

#include <cstdint>

#include "cpu/curvature.h"
#include "cpu/dispatch.h"

namespace prospr::cpu {

// Outputs of one tile.
constexpr std::int64_t kTileOutputs = 6;

// Neighbours in a patch that are neighbours in the padded input too: at most ConvKernels::piece.
struct Piece {
  std::int64_t lane;    // of the first, in the tile
  std::int64_t offset;  // of the first in the padded input, from that of the patch
};

// One chunk of samples, and how it is cut up. Every cut depends on shapes only, never on threads.
template <typename T>
struct ConvPlan {
  using Sum = core::Accumulator<T>;

  ConvCurvature<T> conv;
  std::int64_t positions;      // output pixels
  std::int64_t patch;          // elements of a group's patch: kernel size x channels / groups
  std::int64_t outputs;        // of a group
  std::int64_t padded_sample;  // elements of a sample with its zeros
  const std::int64_t* position_offsets;  // [positions], of patches in a padded sample
  const Piece* pieces;                   // of all tiles of a patch, one after the other
  const std::int64_t* tile_pieces;       // [patch_tiles + 1], where each tile's begin

  // Few positions: sum over columns first. With pairs t <= u of positions,
  //   sum_c (sum_t a_t s_ct)^2 = sum_(t,u) (a_t a_u) (sum_c s_ct s_cu), twice where t < u,
  // which is cheaper while pairs are fewer than columns x positions.
  bool pairwise;
  std::int64_t entries;  // rows of a sample's panel: positions, or pairs of them
  // A dense layer of one position: pairs are squares, and prepare packs them for all tasks.
  bool squares;
  // Pooled factors, mostly zero: only positions where an output's factor is not zero are summed.
  bool sparse;
  // Positions that are packed at a time: all, or as many as a panel holds; samples and patch tiles
  // are then packed one by one.
  std::int64_t part;

  std::int64_t first_sample;  // the chunk
  std::int64_t samples;
  Sum* inputs;   // by prepare, [samples, padded_sample]; of squares [patch_tiles, samples, kLanes]
  Sum* factors;  // by prepare, [output tile][sample][column, position or pair][output of tile];
                 // if sparse, [sample][output][position, only non-zero ones][column];
                 // null where conv.factors serves as it is

  const std::int32_t* windows;     // [positions], of pooled factors
  std::int64_t* nonzero_counts;    // if sparse, by prepare: [samples, output channels]
  std::int32_t* nonzero_position;  // [samples, output channels, positions]

  std::int64_t patch_tiles;   // tiles of kLanes along a patch
  std::int64_t output_tiles;  // tiles of at most kTileOutputs along a group's outputs
  std::int64_t block;         // patch tiles of one task
  std::int64_t blocks;        // tasks along a patch
  std::int64_t slices;        // of the chunk's samples; a task works on one
  std::int64_t panel;         // samples whose patches are packed at a time
  std::int64_t near_columns;  // whose factors are used by all output tiles at a time, or whose
                              // products wait for the other parts
  Sum* sums;                  // [slices, patch, output channels]; += the contraction
};

// Where the parts of an even cut begin.
template <typename T>
PROSPR_HD std::int64_t slice_begin(const ConvPlan<T>& plan, std::int64_t slice) {
  return plan.samples * slice / plan.slices;
}
template <typename T>
PROSPR_HD std::int64_t outputs_begin(const ConvPlan<T>& plan, std::int64_t tile) {
  return plan.outputs * tile / plan.output_tiles;
}

template <typename T>
struct ConvKernels {
  std::int64_t lanes;  // of a tile
  std::int64_t piece;  // elements that are moved at a time, and read after the last of plan.inputs
  // Fills plan.inputs (but for its zeros) and plan.factors, for samples [begin, end) of the chunk.
  void (*prepare)(const ConvPlan<T>& plan, std::int64_t begin, std::int64_t end,
                  core::Accumulator<T>* scratch);
  // Adds the tasks [begin, end) to plan.sums.
  void (*contract)(const ConvPlan<T>& plan, std::int64_t begin, std::int64_t end,
                   core::Accumulator<T>* scratch);
  // Elements of either's scratch.
  std::int64_t (*scratch_size)(const ConvPlan<T>& plan);
};

}  // namespace prospr::cpu

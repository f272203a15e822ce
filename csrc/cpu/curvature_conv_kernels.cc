#include "cpu/curvature_conv_kernels.h"

#include "cpu/curvature_tile.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
using Plan = ConvPlan<T>;
template <typename T>
using Sum = core::Accumulator<T>;

// Copies a sample into the middle of its zeros.
template <typename T>
void pad(const Plan<T>& plan, std::int64_t sample) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t* const size = shape.input_size;
  const std::int64_t* const before = shape.padding_before;
  const std::int64_t row = size[2] * shape.input_channels;
  const T* from = plan.conv.inputs + (plan.first_sample + sample) * size[0] * size[1] * row;
  Sum<T>* const to = plan.inputs + sample * plan.padded_sample;
  for (std::int64_t z = 0; z < size[0]; ++z) {
    for (std::int64_t y = 0; y < size[1]; ++y) {
      Sum<T>* const to_row =
          to + (((z + before[0]) * padded_size(shape, 1) + y + before[1]) * padded_size(shape, 2) +
                before[2]) *
                   shape.input_channels;
      for (std::int64_t i = 0; i < row; ++i) to_row[i] = core::widen(from[i]);
      from += row;
    }
  }
}

// Replaces pad where a patch is a whole sample: squares, in the panels that tasks work on.
template <typename T>
void pack_squares(const Plan<T>& plan, std::int64_t sample) {
  const T* const from = plan.conv.inputs + (plan.first_sample + sample) * plan.patch;
  for (std::int64_t i = 0; i < plan.patch_tiles; ++i) {
    Sum<T>* const to = plan.inputs + (i * plan.samples + sample) * kLanes<Sum<T>>;
    const std::int64_t first = i * kLanes<Sum<T>>;
    const std::int64_t lanes = smaller(kLanes<Sum<T>>, plan.patch - first);
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const Sum<T> input = core::widen(from[first + lane]);
      to[lane] = input * input;
    }
    for (std::int64_t lane = lanes; lane < kLanes<Sum<T>>; ++lane) to[lane] = 0;
  }
}

// Cuts a row of all outputs into tiles, as row `row` of the `rows` that each of them has.
template <typename T, typename From>
void scatter(const Plan<T>& plan, const From* from, std::int64_t row, std::int64_t rows) {
  Sum<T>* to = plan.factors;
  for (std::int64_t group = 0; group < plan.conv.shape.groups; ++group) {
    for (std::int64_t tile = 0; tile < plan.output_tiles; ++tile) {
      const std::int64_t width = outputs_begin(plan, tile + 1) - outputs_begin(plan, tile);
      Sum<T>* const to_row = to + row * width;
      if (width == kTileOutputs) {  // the most common one, unrolled
        for (std::int64_t o = 0; o < kTileOutputs; ++o) to_row[o] = core::widen(from[o]);
      } else {
        for (std::int64_t o = 0; o < width; ++o) to_row[o] = core::widen(from[o]);
      }
      to += rows * width;
      from += width;
    }
  }
}

// The gradient factors of a sample, whether a derivative is yet to be multiplied with or not.
template <typename T>
struct Factors {
  const T* values;              // of column 0 and position 0
  const T* derivative;          // [positions, output channels], or null
  const std::int32_t* windows;  // [positions], rows of values; null if they are the positions
  std::int64_t column_stride;
  std::int64_t width;

  const T* at(std::int64_t column, std::int64_t t) const {
    return values + column * column_stride + (windows == nullptr ? t : windows[t]) * width;
  }
  Sum<T> derivative_at(std::int64_t t, std::int64_t o) const {
    return derivative == nullptr ? Sum<T>(1) : Sum<T>(core::widen(derivative[t * width + o]));
  }
};

template <typename T>
Factors<T> factors_of(const Plan<T>& plan, std::int64_t sample) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t from = plan.first_sample + sample;
  const std::int64_t width = shape.output_channels;
  if (plan.conv.factors != nullptr) {
    const std::int64_t size = plan.positions * width;
    return {plan.conv.factors + from * size, nullptr, nullptr, shape.samples * size, width};
  }
  const PooledFactors<T>& pooled = plan.conv.pooled;
  const std::int64_t size = pooled.windows[0] * pooled.windows[1] * pooled.windows[2] * width;
  return {pooled.values + from * size, pooled.derivative + from * plan.positions * width,
          plan.windows, shape.samples * size, width};
}

// `scratch` holds a row of outputs.
template <typename T>
void pack_factors(const Plan<T>& plan, std::int64_t sample, Sum<T>* scratch) {
  const ConvShape& shape = plan.conv.shape;
  const Factors<T> factors = factors_of(plan, sample);
  for (std::int64_t c = 0; c < shape.columns; ++c) {
    for (std::int64_t t = 0; t < plan.positions; ++t) {
      const T* const from = factors.at(c, t);
      const std::int64_t row = (sample * shape.columns + c) * plan.positions + t;
      const std::int64_t rows = plan.samples * shape.columns * plan.positions;
      if (factors.derivative == nullptr) {
        scatter(plan, from, row, rows);
      } else {
        for (std::int64_t o = 0; o < factors.width; ++o) {
          scratch[o] = factors.derivative_at(t, o) * core::widen(from[o]);
        }
        scatter(plan, scratch, row, rows);
      }
    }
  }
}

// `scratch` holds a row of outputs.
template <typename T>
void pack_factor_pairs(const Plan<T>& plan, std::int64_t sample, Sum<T>* scratch) {
  const Factors<T> factors = factors_of(plan, sample);
  std::int64_t row = sample * plan.entries;
  for (std::int64_t t = 0; t < plan.positions; ++t) {
    for (std::int64_t u = t; u < plan.positions; ++u) {
      for (std::int64_t o = 0; o < factors.width; ++o) scratch[o] = 0;
      for (std::int64_t c = 0; c < plan.conv.shape.columns; ++c) {
        const T* const at_t = factors.at(c, t);
        const T* const at_u = factors.at(c, u);
        for (std::int64_t o = 0; o < factors.width; ++o) {
          scratch[o] += core::widen(at_t[o]) * core::widen(at_u[o]);
        }
      }
      const auto weight = static_cast<Sum<T>>(t == u ? 1 : 2);
      for (std::int64_t o = 0; o < factors.width; ++o) {
        scratch[o] *= weight * factors.derivative_at(t, o) * factors.derivative_at(u, o);
      }
      scatter(plan, scratch, row++, plan.samples * plan.entries);
    }
  }
}

// First where each output is not zero, then the factors there: branches on what is zero could not
// be predicted.
template <typename T>
void pack_nonzero_factors(const Plan<T>& plan, std::int64_t sample) {
  const std::int64_t columns = plan.conv.shape.columns;
  const std::int64_t outputs = plan.conv.shape.output_channels;
  const Factors<T> factors = factors_of(plan, sample);
  std::int64_t* const counts = plan.nonzero_counts + sample * outputs;
  std::int32_t* const nonzero = plan.nonzero_position + sample * outputs * plan.positions;
  for (std::int64_t o = 0; o < outputs; ++o) counts[o] = 0;
  for (std::int64_t t = 0; t < plan.positions; ++t) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      nonzero[o * plan.positions + counts[o]] = static_cast<std::int32_t>(t);
      counts[o] += factors.derivative_at(t, o) != 0;
    }
  }
  for (std::int64_t o = 0; o < outputs; ++o) {
    const std::int32_t* const position = nonzero + o * plan.positions;
    Sum<T>* to = plan.factors + (sample * outputs + o) * plan.positions * columns;
    for (std::int64_t i = 0; i < counts[o]; ++i) {
      const Sum<T> derivative = factors.derivative_at(position[i], o);
      const T* const value = factors.at(0, position[i]) + o;
      for (std::int64_t c = 0; c < columns; ++c) {
        *to++ = derivative * core::widen(value[c * factors.column_stride]);
      }
    }
  }
}

template <typename T>
void prepare(const Plan<T>& plan, std::int64_t begin, std::int64_t end, Sum<T>* scratch) {
  for (std::int64_t sample = begin; sample < end; ++sample) {
    if (plan.squares) {
      pack_squares(plan, sample);
    } else {
      pad(plan, sample);
    }
    if (plan.sparse) {
      pack_nonzero_factors(plan, sample);
    } else if (plan.pairwise) {
      pack_factor_pairs(plan, sample, scratch);
    } else if (plan.factors != nullptr) {
      pack_factors(plan, sample, scratch);
    }
  }
}

// Elements moved at a time: small patches have few neighbours, fewer than a wide vector holds.
constexpr int kPieceBytes = kVectorBytes < 32 ? kVectorBytes : 32;
template <typename Sum>
constexpr std::int64_t kPiece = kPieceBytes / sizeof(Sum);

// Gathers a part of one sample's patches: to[end - begin, kLanes]. Whole pieces are moved: what one
// writes beyond its length is overwritten by the next piece or row, or is a lane (or slack) that
// nobody reads.
template <typename T>
void pack_patches(const Plan<T>& plan, const Sum<T>* from, std::int64_t patch_tile,
                  std::int64_t begin, std::int64_t end, Sum<T>* to) {
  const Piece* const first = plan.pieces + plan.tile_pieces[patch_tile];
  const Piece* const last = plan.pieces + plan.tile_pieces[patch_tile + 1];
  for (std::int64_t t = begin; t < end; ++t, to += kLanes<Sum<T>>) {
    const Sum<T>* const patch = from + plan.position_offsets[t];
    for (const Piece* piece = first; piece < last; ++piece) {
      __builtin_memcpy(to + piece->lane, patch + piece->offset, kPieceBytes);
    }
  }
}

// to[pairs, kLanes] = the products of every pair t <= u of rows of from[positions, kLanes].
template <typename Sum>
void pair_patches(const Sum* from, std::int64_t positions, Sum* to) {
  for (std::int64_t t = 0; t < positions; ++t) {
    for (std::int64_t u = t; u < positions; ++u, to += kLanes<Sum>) {
      for (std::int64_t i = 0; i < kLanes<Sum>; ++i) {
        to[i] = from[t * kLanes<Sum> + i] * from[u * kLanes<Sum> + i];
      }
    }
  }
}

// A task's scratch: its sums [output tile, patch tile, outputs of the tile, kLanes], its panels
// [patch tile, sample, entry, kLanes] with a vector of slack, and the rows that pairs are made of,
// or [column, output, kLanes] products that are not finished.
template <typename T>
std::int64_t sums_size(const Plan<T>& plan) {
  return plan.outputs * plan.block * kLanes<Sum<T>>;
}

template <typename T>
std::int64_t panels_size(const Plan<T>& plan) {
  const std::int64_t rows =
      plan.part < plan.positions ? plan.part : plan.block * plan.panel * plan.entries;
  return (rows + 1) * kLanes<Sum<T>>;
}

template <typename T>
std::int64_t scratch_size(const Plan<T>& plan) {
  const std::int64_t rows = plan.part < plan.positions ? plan.near_columns * plan.outputs
                            : plan.pairwise            ? plan.positions + 1
                                                       : 0;
  const std::int64_t task = sums_size(plan) + panels_size(plan) + rows * kLanes<Sum<T>>;
  return task > plan.conv.shape.output_channels ? task : plan.conv.shape.output_channels;
}

template <typename T>
Tile<Sum<T>> tile_of(const Plan<T>& plan, std::int64_t group, std::int64_t output_tile,
                     std::int64_t sample, std::int64_t samples) {
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t output = group * plan.outputs + outputs_begin(plan, output_tile);
  Tile<Sum<T>> tile{};
  if (plan.pairwise) {
    // Pairs are added up as they are, so those of all samples are one row of positions.
    const std::int64_t width =
        outputs_begin(plan, output_tile + 1) - outputs_begin(plan, output_tile);
    tile.samples = 1;
    tile.positions = samples * plan.entries;
    tile.position_stride = width;
    tile.factors = plan.factors + (output * plan.samples + sample * width) * plan.entries;
  } else {
    tile.samples = samples;
    tile.positions = plan.positions;
    if (plan.factors != nullptr) {
      const std::int64_t width =
          outputs_begin(plan, output_tile + 1) - outputs_begin(plan, output_tile);
      tile.position_stride = width;
      tile.column_stride = plan.positions * width;
      tile.sample_stride = shape.columns * tile.column_stride;
      tile.factors = plan.factors + output * plan.samples * shape.columns * plan.positions +
                     sample * tile.sample_stride;
    } else if constexpr (sizeof(T) == sizeof(Sum<T>)) {
      tile.position_stride = shape.output_channels;
      tile.sample_stride = plan.positions * shape.output_channels;
      tile.column_stride = shape.samples * tile.sample_stride;
      tile.factors = plan.conv.factors + (plan.first_sample + sample) * tile.sample_stride + output;
    }
  }
  return tile;
}

// The products of packed panels with dense factors.
template <typename T>
void add_dense(const Plan<T>& plan, std::int64_t group, std::int64_t first_tile,
               std::int64_t sample, std::int64_t samples, std::int64_t tiles, const Sum<T>* panels,
               std::int64_t tile_rows, Sum<T>* sums) {
  constexpr std::int64_t kTileLanes = kLanes<Sum<T>>;
  const ConvShape& shape = plan.conv.shape;
  const std::int64_t columns = plan.pairwise ? 1 : shape.columns;
  for (std::int64_t first = 0; first < columns; first += plan.near_columns) {
    for (std::int64_t j = 0; j < plan.output_tiles; ++j) {
      const std::int64_t outputs = outputs_begin(plan, j + 1) - outputs_begin(plan, j);
      Tile<Sum<T>> tile = tile_of(plan, group, j, sample, samples);
      tile.columns = smaller(plan.near_columns, columns - first);
      tile.factors += first * tile.column_stride;
      tile.patches = panels;
      tile.sums = sums + outputs_begin(plan, j) * plan.block * kTileLanes;
      for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t lanes = plan.patch - (first_tile + i) * kTileLanes;
        if (plan.pairwise) {
          add_tile<false>(tile, outputs, lanes);
        } else {
          add_tile<true>(tile, outputs, lanes);
        }
        tile.patches += tile_rows * kTileLanes;
        tile.sums += outputs * kTileLanes;
      }
    }
  }
}

// The same with the factors that are not zero.
template <typename T>
void add_nonzero(const Plan<T>& plan, std::int64_t group, std::int64_t sample, std::int64_t samples,
                 std::int64_t tiles, const Sum<T>* panels, Sum<T>* sums) {
  constexpr std::int64_t kTileLanes = kLanes<Sum<T>>;
  const ConvShape& shape = plan.conv.shape;
  for (std::int64_t n = 0; n < samples; ++n) {
    for (std::int64_t j = 0; j < plan.output_tiles; ++j) {
      const std::int64_t begin = outputs_begin(plan, j);
      const std::int64_t outputs = outputs_begin(plan, j + 1) - begin;
      for (std::int64_t o = 0; o < outputs; ++o) {
        const std::int64_t row =
            (sample + n) * shape.output_channels + group * plan.outputs + begin + o;
        SparseTile<Sum<T>> tile{};
        tile.nonzeros = plan.nonzero_counts[row];
        tile.positions = plan.nonzero_position + row * plan.positions;
        tile.columns = shape.columns;
        tile.factors = plan.factors + row * plan.positions * shape.columns;
        for (std::int64_t i = 0; i < tiles; ++i) {
          tile.patches = panels + (i * samples + n) * plan.positions * kTileLanes;
          tile.sums = sums + (begin * plan.block + i * outputs + o) * kTileLanes;
          add_sparse_tile(tile);
        }
      }
    }
  }
}

// The same for one sample whose patches are too many for a panel: a part of the positions at a
// time, whose products wait for the others before they are squared.
template <typename T>
void add_in_parts(const Plan<T>& plan, std::int64_t group, std::int64_t patch_tile,
                  std::int64_t sample, const Sum<T>* from, Sum<T>* panel, Sum<T>* products,
                  Sum<T>* sums) {
  constexpr std::int64_t kTileLanes = kLanes<Sum<T>>;
  const std::int64_t all_columns = plan.conv.shape.columns;
  const std::int64_t size = plan.outputs * kTileLanes;
  for (std::int64_t first = 0; first < all_columns; first += plan.near_columns) {
    const std::int64_t columns = smaller(plan.near_columns, all_columns - first);
    for (std::int64_t i = 0; i < columns * size; ++i) products[i] = 0;
    for (std::int64_t t = 0; t < plan.positions; t += plan.part) {
      const std::int64_t end = smaller(t + plan.part, plan.positions);
      pack_patches(plan, from, patch_tile, t, end, panel);
      for (std::int64_t j = 0; j < plan.output_tiles; ++j) {
        Tile<Sum<T>> tile = tile_of(plan, group, j, sample, 1);
        tile.columns = 1;
        tile.positions = end - t;
        tile.patches = panel;
        tile.factors += first * tile.column_stride + t * tile.position_stride;
        tile.sums = products + outputs_begin(plan, j) * kTileLanes;
        const std::int64_t outputs = outputs_begin(plan, j + 1) - outputs_begin(plan, j);
        for (std::int64_t c = 0; c < columns; ++c) {
          add_tile<false>(tile, outputs, plan.patch - patch_tile * kTileLanes);
          tile.factors += tile.column_stride;
          tile.sums += size;
        }
      }
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      for (std::int64_t i = 0; i < size; ++i)
        sums[i] += products[c * size + i] * products[c * size + i];
    }
  }
}

// One task: a block of patch tiles of one group, all outputs, one slice of the samples.
template <typename T>
void contract_block(const Plan<T>& plan, std::int64_t slice, std::int64_t group, std::int64_t block,
                    Sum<T>* scratch) {
  constexpr std::int64_t kTileLanes = kLanes<Sum<T>>;
  const ConvShape& shape = plan.conv.shape;
  Sum<T>* const sums = scratch;
  Sum<T>* const panels = sums + sums_size(plan);
  Sum<T>* const rows = panels + panels_size(plan);
  const std::int64_t first_tile = block * plan.block;
  const std::int64_t tiles = smaller(plan.block, plan.patch_tiles - first_tile);
  const std::int64_t group_channel = group * (shape.input_channels / shape.groups);

  for (std::int64_t i = 0; i < sums_size(plan); ++i) sums[i] = 0;
  const std::int64_t end = slice_begin(plan, slice + 1);
  for (std::int64_t sample = slice_begin(plan, slice); sample < end; sample += plan.panel) {
    const std::int64_t samples = smaller(plan.panel, end - sample);
    if (plan.part < plan.positions) {
      add_in_parts(plan, group, first_tile, sample,
                   plan.inputs + sample * plan.padded_sample + group_channel, panels, rows, sums);
      continue;
    }
    if (plan.squares) {
      const Sum<T>* const packed = plan.inputs + (first_tile * plan.samples + sample) * kTileLanes;
      add_dense(plan, group, first_tile, sample, samples, tiles, packed, plan.samples, sums);
      continue;
    }
    Sum<T>* panel = panels;
    for (std::int64_t i = 0; i < tiles; ++i) {
      for (std::int64_t n = 0; n < samples; ++n, panel += plan.entries * kTileLanes) {
        const Sum<T>* const from = plan.inputs + (sample + n) * plan.padded_sample + group_channel;
        pack_patches(plan, from, first_tile + i, 0, plan.positions, plan.pairwise ? rows : panel);
        if (plan.pairwise) pair_patches(rows, plan.positions, panel);
      }
    }
    if (plan.sparse) {
      add_nonzero(plan, group, sample, samples, tiles, panels, sums);
    } else {
      add_dense(plan, group, first_tile, sample, samples, tiles, panels, samples * plan.entries,
                sums);
    }
  }

  // Pairs may have cancelled to just below zero.
  for (std::int64_t i = 0; i < sums_size(plan); ++i) sums[i] = sums[i] < 0 ? Sum<T>(0) : sums[i];

  // Transposed into the kernel's layout.
  Sum<T>* const result = plan.sums + slice * plan.patch * shape.output_channels;
  for (std::int64_t j = 0; j < plan.output_tiles; ++j) {
    const std::int64_t outputs = outputs_begin(plan, j + 1) - outputs_begin(plan, j);
    for (std::int64_t i = 0; i < tiles; ++i) {
      const Sum<T>* const from =
          sums + (outputs_begin(plan, j) * plan.block + i * outputs) * kTileLanes;
      const std::int64_t first = (first_tile + i) * kTileLanes;
      const std::int64_t lanes = smaller(kTileLanes, plan.patch - first);
      Sum<T>* const to =
          result + first * shape.output_channels + group * plan.outputs + outputs_begin(plan, j);
      for (std::int64_t lane = 0; lane < lanes; ++lane) {
        for (std::int64_t o = 0; o < outputs; ++o) {
          to[lane * shape.output_channels + o] += from[o * kTileLanes + lane];
        }
      }
    }
  }
}

template <typename T>
void contract(const Plan<T>& plan, std::int64_t begin, std::int64_t end, Sum<T>* scratch) {
  const std::int64_t groups = plan.conv.shape.groups;
  for (std::int64_t task = begin; task < end; ++task) {
    contract_block(plan, task / (groups * plan.blocks), task / plan.blocks % groups,
                   task % plan.blocks, scratch);
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(ConvKernels<float>, kLanes<float>, kPiece<float>, prepare, contract, scratch_size)
PROSPR_KERNELS(ConvKernels<double>, kLanes<double>, kPiece<double>, prepare, contract, scratch_size)
PROSPR_KERNELS(ConvKernels<core::Half>, kLanes<float>, kPiece<float>, prepare, contract,
               scratch_size)
PROSPR_KERNELS(ConvKernels<core::BFloat16>, kLanes<float>, kPiece<float>, prepare, contract,
               scratch_size)

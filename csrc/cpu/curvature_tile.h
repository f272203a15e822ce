// The inner loop of the contractions: one tile of products, squared and summed in registers.
//
// Included only by files that are compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

// Vectors of a tile along the patch.
constexpr int kTileVectors = 2;
template <typename Sum>
constexpr std::int64_t kLanes = kTileVectors * kVectorLanes<Sum>;

template <typename Sum>
struct Tile {
  std::int64_t samples;
  std::int64_t columns;
  std::int64_t positions;
  const Sum* patches;  // [samples, positions, kLanes]
  const Sum* factors;  // of outputs that are neighbours in memory, with these strides:
  std::int64_t sample_stride;
  std::int64_t column_stride;
  std::int64_t position_stride;
  Sum* sums;  // [outputs, kLanes]
};

// Rows of patches that stay in the first-level cache while this many columns pass over them.
constexpr std::int64_t kNearPositions = 128;
constexpr std::int64_t kNearColumns = 8;

PROSPR_HD std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// sums += sum over samples and columns of (sum over positions of patch x factor), squared or not.
//
// Both the products and the sums stay in registers, kOutputs x kVectors of each; only where there
// are many positions are unfinished products put aside.
template <bool kSquare, int kOutputs, int kVectors, typename Sum>
void add_tile(const Tile<Sum>& tile) {
  constexpr std::int64_t kStep = kVectorLanes<Sum>;
  Vector<Sum> sums[kOutputs][kVectors];
  Vector<Sum> unfinished[kNearColumns][kOutputs][kVectors];
  for (int o = 0; o < kOutputs; ++o) {
    for (int v = 0; v < kVectors; ++v) sums[o][v] = load(tile.sums + o * kLanes<Sum> + v * kStep);
  }
  for (std::int64_t n = 0; n < tile.samples; ++n) {
    const Sum* const patches = tile.patches + n * tile.positions * kLanes<Sum>;
    for (std::int64_t first_c = 0; first_c < tile.columns; first_c += kNearColumns) {
      const std::int64_t columns = smaller(kNearColumns, tile.columns - first_c);
      const Sum* const factors =
          tile.factors + n * tile.sample_stride + first_c * tile.column_stride;
      for (std::int64_t first_t = 0; first_t < tile.positions; first_t += kNearPositions) {
        const std::int64_t positions = smaller(kNearPositions, tile.positions - first_t);
        const bool starts = first_t == 0;
        const bool ends = first_t + positions == tile.positions;
        for (std::int64_t c = 0; c < columns; ++c) {
          const Sum* patch = patches + first_t * kLanes<Sum>;
          const Sum* factor = factors + c * tile.column_stride + first_t * tile.position_stride;
          Vector<Sum> products[kOutputs][kVectors] = {};
          if (!starts) __builtin_memcpy(products, unfinished[c], sizeof(products));
          for (std::int64_t t = 0; t < positions; ++t) {
            Vector<Sum> lanes[kVectors];
            for (int v = 0; v < kVectors; ++v) lanes[v] = load(patch + v * kStep);
            for (int o = 0; o < kOutputs; ++o) {
              for (int v = 0; v < kVectors; ++v) products[o][v] += lanes[v] * factor[o];
            }
            patch += kLanes<Sum>;
            factor += tile.position_stride;
          }
          if (!ends) {
            __builtin_memcpy(unfinished[c], products, sizeof(products));
            continue;
          }
          for (int o = 0; o < kOutputs; ++o) {
            for (int v = 0; v < kVectors; ++v) {
              sums[o][v] += kSquare ? products[o][v] * products[o][v] : products[o][v];
            }
          }
        }
      }
    }
  }
  for (int o = 0; o < kOutputs; ++o) {
    for (int v = 0; v < kVectors; ++v) store(tile.sums + o * kLanes<Sum> + v * kStep, sums[o][v]);
  }
}

template <bool kSquare, int kVectors, typename Sum>
void add_tile(const Tile<Sum>& tile, std::int64_t outputs) {
  switch (outputs) {
    case 1:
      return add_tile<kSquare, 1, kVectors>(tile);
    case 2:
      return add_tile<kSquare, 2, kVectors>(tile);
    case 3:
      return add_tile<kSquare, 3, kVectors>(tile);
    case 4:
      return add_tile<kSquare, 4, kVectors>(tile);
    case 5:
      return add_tile<kSquare, 5, kVectors>(tile);
    default:
      return add_tile<kSquare, 6, kVectors>(tile);
  }
}

// `lanes` <= kLanes are wanted; the last vector computes the others in vain.
template <bool kSquare, typename Sum>
void add_tile(const Tile<Sum>& tile, std::int64_t outputs, std::int64_t lanes) {
  if (lanes > kVectorLanes<Sum>) {
    add_tile<kSquare, 2>(tile, outputs);
  } else {
    add_tile<kSquare, 1>(tile, outputs);
  }
}

// The positions of one sample and one output where its factors are not zero.
template <typename Sum>
struct SparseTile {
  std::int64_t nonzeros;
  std::int64_t columns;
  const Sum* patches;             // [positions, kLanes]
  const std::int32_t* positions;  // [nonzeros]
  const Sum* factors;             // [nonzeros, columns]
  Sum* sums;                      // [kLanes]
};

// sums += sum over columns of (sum over positions of patch x factor)^2; here the columns, from
// `first` on, are what is in registers at the same time.
template <int kColumns, typename Sum>
void add_sparse_tile(const SparseTile<Sum>& tile, std::int64_t first) {
  constexpr std::int64_t kStep = kVectorLanes<Sum>;
  Vector<Sum> products[kColumns][kTileVectors] = {};
  const Sum* factor = tile.factors + first;
  for (std::int64_t i = 0; i < tile.nonzeros; ++i, factor += tile.columns) {
    const Sum* const patch = tile.patches + tile.positions[i] * kLanes<Sum>;
    Vector<Sum> lanes[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) lanes[v] = load(patch + v * kStep);
    for (int c = 0; c < kColumns; ++c) {
      for (int v = 0; v < kTileVectors; ++v) products[c][v] += lanes[v] * factor[c];
    }
  }
  for (int v = 0; v < kTileVectors; ++v) {
    Vector<Sum> sum = load(tile.sums + v * kStep);
    for (int c = 0; c < kColumns; ++c) sum += products[c][v] * products[c][v];
    store(tile.sums + v * kStep, sum);
  }
}

template <typename Sum>
void add_sparse_tile(const SparseTile<Sum>& tile) {
  constexpr std::int64_t kMost = 6;
  const std::int64_t cuts = (tile.columns + kMost - 1) / kMost;
  for (std::int64_t cut = 0; cut < cuts; ++cut) {
    const std::int64_t first = tile.columns * cut / cuts;
    switch (tile.columns * (cut + 1) / cuts - first) {
      case 1:
        add_sparse_tile<1>(tile, first);
        break;
      case 2:
        add_sparse_tile<2>(tile, first);
        break;
      case 3:
        add_sparse_tile<3>(tile, first);
        break;
      case 4:
        add_sparse_tile<4>(tile, first);
        break;
      case 5:
        add_sparse_tile<5>(tile, first);
        break;
      default:
        add_sparse_tile<6>(tile, first);
    }
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

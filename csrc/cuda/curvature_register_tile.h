// A warp's part of a matrix product, kept in registers: 64 rows by 16 columns of the result, of
// which each thread has 8 by 4; or half of the rows, 4 by 4. Included by .cu files only.
#pragma once

#include <cuda_runtime.h>

namespace prospr::cuda {

constexpr int kThreadRows = 8;
constexpr int kThreadColumns = 4;
constexpr int kWarpRows = 8 * kThreadRows;
constexpr int kWarpColumns = 4 * kThreadColumns;
// A thread's rows are neighbours by four, in each half of the warp's: it reads them 16 bytes at a
// time.
constexpr int kNeighbours = 4;
constexpr int kHalfRows = kWarpRows / 2;

// The rows and columns of a thread, from the warp's first. Threads whose lanes differ in bit 0 have
// the same columns, in bit 1 or 2 the same rows: then a half of a warp reads 64 bytes at once.
__device__ inline int tile_row(int lane, int i) {
  return (lane % 2 + lane / 8 * 2) * kNeighbours + i / kNeighbours * kHalfRows + i % kNeighbours;
}
__device__ inline int tile_column(int lane, int i) { return lane / 2 % 4 * kThreadColumns + i; }

// products += row[i] * column[j], for the thread's rows i of row[kWarpRows] and its columns j of
// column[kWarpColumns], both on a boundary of 16 bytes.
template <typename Sum, int kRows>
__device__ inline void add_products(const Sum* row, const Sum* column, int lane,
                                    Sum (&products)[kRows][kThreadColumns]) {
  Sum rows[kRows];
  Sum columns[kThreadColumns];
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows[i] = row[tile_row(lane, i)];
#pragma unroll
  for (int j = 0; j < kThreadColumns; ++j) columns[j] = column[tile_column(lane, j)];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kThreadColumns; ++j) products[i][j] += rows[i] * columns[j];
  }
}

}  // namespace prospr::cuda

// The single-threaded loops of normalisation.h. normalisation_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "core/normalisation.h"
#include "cpu/dispatch.h"

namespace prospr::cpu {

// Up to three tensors [rows, columns], the last of which is x.
template <typename T>
struct ColumnTensors {
  std::int64_t rows;
  std::int64_t columns;
  const T* tensors[3];
};

using core::kResults;
using core::kSums;

// Sums down the columns, with x - centre for d, are each a row of them.
//
// results[r] = sum over i of coefficients[r, i] * tensor_i + coefficients[r, count], x less its
// centre, all of them rows of columns.
template <typename T>
struct NormalisationKernels {
  void (*sums[3])(const ColumnTensors<T>& x, const double* centre, double* sums);  // by count - 1
  void (*combine[3])(const ColumnTensors<T>& x, const T* centre, const T* coefficients,
                     T* const* results);
};

}  // namespace prospr::cpu

// The single-threaded loops of normalisation.h. normalisation_kernels.cc is compiled once per
// instruction set.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace prospr::cpu {

// Up to three tensors [rows, columns], the last of which is x.
template <typename T>
struct ColumnTensors {
  std::int64_t rows;
  std::int64_t columns;
  const T* tensors[3];
};

// Sums down the columns, each a row of them: of x - centre and its square; of (g, x), g and g times
// x - centre; of (u, g, x), u, u times x - centre, g, g times x - centre, and u times g.
constexpr int kSums[] = {2, 2, 5};

// results[r] = sum over i of coefficients[r, i] * tensor_i + coefficients[r, count], x less its
// centre, all of them rows of columns.
template <typename T>
struct NormalisationKernels {
  void (*sums[3])(const ColumnTensors<T>& x, const double* centre, double* sums);  // by count - 1
  void (*combine[3])(const ColumnTensors<T>& x, const T* centre, const T* coefficients,
                     T* const* results);
};

// So many results has the combination of so many tensors.
constexpr int kResults[] = {1, 1, 2};

}  // namespace prospr::cpu

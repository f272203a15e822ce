#include "cpu/normalisation_kernels.h"

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

using Doubles = Vector<double>;

template <typename Sum, typename T>
PROSPR_HD Sum widened(const T* from) {
  if constexpr (sizeof(Sum) == sizeof(double)) {
    return *from;
  } else {
    typedef T Narrow __attribute__((vector_size(kVectorLanes<double> * sizeof(T))));
    Narrow values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Sum);
  }
}

// `kWidth` times as many columns as a Sum has lanes, from `column` on; their sums stay in
// registers.
template <typename T, int kTensors, typename Sum, int kWidth>
PROSPR_HD void add_columns(const ColumnTensors<T>& x, const double* centre, std::int64_t column,
                           double* sums) {
  constexpr std::int64_t kLanes = sizeof(Sum) / sizeof(double);
  Sum total[kSums[kTensors - 1]][kWidth] = {};
  Sum middle[kWidth];
  __builtin_memcpy(middle, centre + column, sizeof middle);
  const T* at[kTensors];
  for (int i = 0; i < kTensors; ++i) at[i] = x.tensors[i] + column;
  for (std::int64_t row = 0; row < x.rows; ++row) {
#pragma GCC unroll 4
    for (int w = 0; w < kWidth; ++w) {
      const Sum d = widened<Sum>(at[kTensors - 1] + w * kLanes) - middle[w];
      if constexpr (kTensors == 1) {
        total[0][w] += d;
        total[1][w] += d * d;
      } else {
#pragma GCC unroll 4
        for (int i = 0; i < kTensors - 1; ++i) {
          const Sum value = widened<Sum>(at[i] + w * kLanes);
          total[2 * i][w] += value;
          total[2 * i + 1][w] += value * d;
        }
        if constexpr (kTensors == 3) {
          total[4][w] += widened<Sum>(at[0] + w * kLanes) * widened<Sum>(at[1] + w * kLanes);
        }
      }
    }
    for (int i = 0; i < kTensors; ++i) at[i] += x.columns;
  }
  for (int sum = 0; sum < kSums[kTensors - 1]; ++sum) {
    __builtin_memcpy(sums + sum * x.columns + column, total[sum], sizeof total[sum]);
  }
}

template <typename T, int kTensors>
void add(const ColumnTensors<T>& x, const double* centre, double* sums) {
  constexpr std::int64_t kLanes = kVectorLanes<double>;
  std::int64_t column = 0;
  for (; column + 2 * kLanes <= x.columns; column += 2 * kLanes) {
    add_columns<T, kTensors, Doubles, 2>(x, centre, column, sums);
  }
  for (; column + kLanes <= x.columns; column += kLanes) {
    add_columns<T, kTensors, Doubles, 1>(x, centre, column, sums);
  }
  for (; column < x.columns; ++column) {
    add_columns<T, kTensors, double, 1>(x, centre, column, sums);
  }
}

template <typename T, int kTensors>
void combine(const ColumnTensors<T>& x, const T* centre, const T* coefficients, T* const* results) {
  constexpr int kOf = kResults[kTensors - 1];
  const std::int64_t columns = x.columns;
  for (std::int64_t row = 0; row < x.rows; ++row) {
    const T* from[kTensors];
    for (int i = 0; i < kTensors; ++i) from[i] = x.tensors[i] + row * columns;
    T* to[kOf];
    for (int r = 0; r < kOf; ++r) to[r] = results[r] + row * columns;
    PROSPR_NO_ALIAS
    for (std::int64_t c = 0; c < columns; ++c) {
      const T d = from[kTensors - 1][c] - centre[c];
#pragma GCC unroll 2
      for (int r = 0; r < kOf; ++r) {
        const T* const by = coefficients + r * (kTensors + 1) * columns + c;
        T sum = by[(kTensors - 1) * columns] * d + by[kTensors * columns];
#pragma GCC unroll 2
        for (int i = 0; i < kTensors - 1; ++i) sum += by[i * columns] * from[i][c];
        to[r][c] = sum;
      }
    }
  }
}

template <typename T>
constexpr NormalisationKernels<T> kKernels = {{add<T, 1>, add<T, 2>, add<T, 3>},
                                              {combine<T, 1>, combine<T, 2>, combine<T, 3>}};

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(NormalisationKernels<float>, kKernels<float>)
PROSPR_KERNELS(NormalisationKernels<double>, kKernels<double>)

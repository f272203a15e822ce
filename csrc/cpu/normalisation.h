// What batch normalisation and its derivatives are made of: sums of products of tensors for each
// channel, and linear combinations of tensors with coefficients for each channel.
//
// All tensors are [rows, channels], row-major, and up to kMostTensors of them are given.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"

namespace prospr::cpu {

constexpr std::int64_t kMostTensors = 3;

template <typename T>
struct ChannelProducts {
  std::int64_t rows;
  std::int64_t channels;
  std::vector<const T*> tensors;
  // [k + 1, k + 1, channels] for k tensors; written. It may not overlap with the tensors.
  double* products;
};

template <typename T>
struct ChannelCombinations {
  std::int64_t rows;
  std::int64_t channels;
  std::vector<const T*> tensors;
  const T* coefficients;    // [results, k + 1, channels]
  std::vector<T*> results;  // written; none may overlap with another or with the tensors
};

// products[i, j, c] = sum over the rows of tensor_i[row, c] * tensor_j[row, c], the last i and j
// standing for a tensor of ones. In double; the same bits for every number of threads.
template <typename T>
void run(const ChannelProducts<T>& products, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

// result_r[row, c] = sum over i of coefficients[r, i, c] * tensor_i[row, c], the last i standing
// for a tensor of ones.
template <typename T>
void run(const ChannelCombinations<T>& combinations, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// Sums of products and linear combinations of kernels/normalisation.h on the CPU.
#pragma once

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/normalisation.h"

namespace prospr::cpu {

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

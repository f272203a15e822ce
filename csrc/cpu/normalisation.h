// The batch normalisation of kernels/normalisation.h on the CPU: one pass for the sums per channel,
// one for what is computed of each element.
//
// Sums are in double, of x less a value near its mean; the same bits for every number of threads.
#pragma once

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/normalisation.h"

namespace prospr::cpu {

template <typename T>
void run(const BatchShape& shape, const BatchMoments<T>& moments, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
void run(const BatchShape& shape, const BatchNorm<T>& norm, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
void run(const BatchShape& shape, const BatchNormGradient<T>& gradient,
         InstructionSet instruction_set, const ParallelFor& parallel_for);

template <typename T>
void run(const BatchShape& shape, const BatchNormSecondGradient<T>& gradient,
         InstructionSet instruction_set, const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// The contractions of kernels/curvature.h on the CPU. Results are the same bits for every split
// into threads; they differ in rounding between instruction sets.
#pragma once

#include <string>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/curvature.h"

namespace prospr::cpu {

template <typename T>
void run(const ConvCurvature<T>& conv, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
void run(const ConvInputGradient<T>& conv, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

// Returns what is wrong with the indices (and then has changed nothing), or nothing.
template <typename T, typename Index>
std::string run(const EmbeddingCurvature<T, Index>& embedding, InstructionSet instruction_set,
                const ParallelFor& parallel_for);

}  // namespace prospr::cpu

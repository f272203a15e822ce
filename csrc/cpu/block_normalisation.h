// Batch normalisation of blocks on the CPU.
#pragma once

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/block_normalisation.h"

namespace prospr::cpu {

// The result is the same bits for every number of threads, not for every instruction set. Throws
// std::bad_alloc. Instantiated for the three of kernels/block_normalisation.h.
template <typename Arguments>
void run(const BlockNormShape& shape, const Arguments& arguments, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

}  // namespace prospr::cpu

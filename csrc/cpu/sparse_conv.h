// Sparse convolution on the CPU.
#pragma once

#include <memory>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/sparse_conv.h"

namespace prospr::cpu {

// What is worked out of a shape and a pattern, for all calls with both.
struct SparsePlan;
using Plan = std::shared_ptr<const SparsePlan>;

// Outputs may not overlap with anything else. Shape and pattern are checked. The result is
// the same bits for every number of threads, not for every instruction set. Throws std::bad_alloc.
// Instantiated for the three above.
template <typename Map>
void run(const SparseConvShape& shape, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

// The same; `plan` is made if it is null, and else that of an earlier call with this shape and with
// the same numbers as pattern.
template <typename Map>
void run(const SparseConvShape& shape, const Map& map, Plan* plan, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

// Instantiated for ToBlocks and FromBlocks.
template <typename Map>
void run(const Map& map, InstructionSet instruction_set, const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// Sparse convolution of few samples on the CPU.
#pragma once

#include <memory>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/sparse_conv_small.h"

namespace prospr::cpu {

// What is worked out of a shape and a pattern, for all calls with both.
struct SmallPlan;
using SharedSmallPlan = std::shared_ptr<const SmallPlan>;

// The output may not overlap with anything else. Shape and pattern are checked where `plan` is
// null, which it then is no longer; else it is that of an earlier call with this shape and with the
// same numbers as pattern. The result is the same bits for every number of threads, not for every
// instruction set. Throws std::bad_alloc. Instantiated for float and double.
template <typename T>
void run(const SparseConvShape& shape, const SparseConvSmall<T>& map, SharedSmallPlan* plan,
         InstructionSet instruction_set, const ParallelFor& parallel_for);

}  // namespace prospr::cpu

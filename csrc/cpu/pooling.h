// The maps of kernels/pooling.h on the CPU.
#pragma once

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/pooling.h"

namespace prospr::cpu {

// Outputs may not overlap with anything else. The windows are checked. The result is the
// same bits for every number of threads and every instruction set. Instantiated for the three
// above.
template <typename Map>
void run(const Windows& windows, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// Selection on the CPU.
//
// The scores are neither moved nor sorted. A sample of them tells between which two keys
// (core/order_key.h) the smallest score that is kept probably is. One pass over memory counts the
// keys above that window and those in each bin of it, further ones do the same in the bin that must
// hold the key, and the last one writes the masks. If the guess was wrong, the search begins again
// with the window of all keys. Results are the same for every split into threads and every
// instruction set.
#pragma once

#include <string>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/select.h"

namespace prospr::cpu {

// Needs what check_selection accepts. Returns which tensor holds a NaN, and then no mask is to be
// used; else empty.
template <typename T>
std::string run(const Selection<T>& selection, InstructionSet instruction_set,
                const ParallelFor& parallel_for);

}  // namespace prospr::cpu

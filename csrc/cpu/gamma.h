// The streaming prospect step on the CPU. Results are the same bits for every split into threads
// and every instruction set.
#pragma once

#include <cstdint>

#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "kernels/gamma.h"

namespace prospr::cpu {

template <typename T>
void run(const GammaUpdate<T>& update, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
void run(const GammaStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

template <typename T>
void run(const GammaMomentumStep<T>& step, std::int64_t size, InstructionSet instruction_set,
         const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// ConvCurvature where every channel is a group of its own: vectors run along the outputs.
#pragma once

#include "cpu/curvature.h"

namespace prospr::cpu {

template <typename T>
void run_depthwise(const ConvCurvature<T>& conv, InstructionSet instruction_set,
                   const ParallelFor& parallel_for);

}  // namespace prospr::cpu

// The loops of a family for each instruction set, and the choice between them.
//
// A family declares one type, a struct of pointers to its loops or a single pointer, in
// <family>_kernels.h. <family>_kernels.cc is compiled once per instruction set, into the namespace
// PROSPR_ISA of that name, and hands its loops over with PROSPR_KERNELS.
#pragma once

#include "cpu/instruction_set.h"

namespace prospr::cpu {

namespace baseline {
constexpr InstructionSet kInstructionSet = InstructionSet::kBaseline;
}
namespace avx2 {
constexpr InstructionSet kInstructionSet = InstructionSet::kAvx2;
}
namespace avx512 {
constexpr InstructionSet kInstructionSet = InstructionSet::kAvx512;
}

// Defined by PROSPR_KERNELS only.
template <InstructionSet kSet, typename Kernels>
Kernels kernels_for();

template <typename Kernels>
Kernels dispatch([[maybe_unused]] InstructionSet instruction_set) {
#if defined(PROSPR_X86_64)
  switch (instruction_set) {
    case InstructionSet::kAvx512:
      return kernels_for<InstructionSet::kAvx512, Kernels>();
    case InstructionSet::kAvx2:
      return kernels_for<InstructionSet::kAvx2, Kernels>();
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kernels_for<InstructionSet::kBaseline, Kernels>();
}

}  // namespace prospr::cpu

// After the namespaces of a file that is compiled once per instruction set: Kernels{...}, whose
// members are named as in the namespace PROSPR_ISA.
#define PROSPR_KERNELS(Kernels, ...)                            \
  namespace prospr::cpu {                                       \
  template <>                                                   \
  Kernels kernels_for<PROSPR_ISA::kInstructionSet, Kernels>() { \
    using namespace PROSPR_ISA;                                 \
    return {__VA_ARGS__};                                       \
  }                                                             \
  }

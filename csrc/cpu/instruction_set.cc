#include "cpu/instruction_set.h"

#include <cstdlib>
#include <stdexcept>

namespace prospr::cpu {

std::vector<InstructionSet> available_instruction_sets() {
  std::vector<InstructionSet> sets = {InstructionSet::kBaseline};
#if defined(PROSPR_X86_64)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(InstructionSet::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      sets.push_back(InstructionSet::kAvx512);
    }
  }
#endif
  return sets;
}

const char* name_of(InstructionSet instruction_set) {
  constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
  return kNames[static_cast<int>(instruction_set)];
}

InstructionSet instruction_set_named(const std::string& name) {
  std::string accepted;
  for (const InstructionSet set : available_instruction_sets()) {
    if (name == name_of(set)) return set;
    accepted += accepted.empty() ? name_of(set) : std::string(", ") + name_of(set);
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' is not one of those available here: " + accepted);
}

InstructionSet best_instruction_set() {
  static const InstructionSet best = [] {
    const InstructionSet widest = available_instruction_sets().back();
    const char* wanted = std::getenv("PROSPR_INSTRUCTION_SET");
    if (wanted == nullptr) return widest;
    try {
      return instruction_set_named(wanted);
    } catch (const std::invalid_argument&) {
      return widest;
    }
  }();
  return best;
}

}  // namespace prospr::cpu

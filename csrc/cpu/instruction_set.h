// Which of the compiled variants of a kernel runs on this machine.
#pragma once

#include <string>
#include <vector>

namespace prospr::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The variants that were compiled in and that this machine can run, narrowest first.
std::vector<InstructionSet> available_instruction_sets();

// The widest available one; decided once. The environment variable PROSPR_INSTRUCTION_SET
// (baseline, avx2 or avx512) lowers it; a name that is unknown or not available is ignored.
InstructionSet best_instruction_set();

const char* name_of(InstructionSet instruction_set);

// Throws std::invalid_argument, naming the accepted names, if `name` is not available here.
InstructionSet instruction_set_named(const std::string& name);

}  // namespace prospr::cpu

// Vectors as wide as the instruction set's.
//
// Included only by files that are compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename Sum>
struct VectorOf {
  typedef Sum Type __attribute__((vector_size(kVectorBytes)));
};
template <typename Sum>
using Vector = typename VectorOf<Sum>::Type;
template <typename Sum>
constexpr std::int64_t kVectorLanes = kVectorBytes / sizeof(Sum);

template <typename Sum>
PROSPR_HD Vector<Sum> load(const Sum* from) {
  Vector<Sum> vector;
  __builtin_memcpy(&vector, from, kVectorBytes);
  return vector;
}

template <typename Sum>
PROSPR_HD void store(Sum* to, Vector<Sum> vector) {
  __builtin_memcpy(to, &vector, kVectorBytes);
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

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

template <typename T, int kLanes>
struct LanesOf {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
};
// So many elements side by side, of which an instruction set may have fewer or more in a vector.
template <typename T, int kLanes>
using Lanes = typename LanesOf<T, kLanes>::Type;
template <typename T>
constexpr std::int64_t kVectorLanes = kVectorBytes / sizeof(T);
template <typename T>
using Vector = Lanes<T, kVectorLanes<T>>;

template <typename Lanes, typename From>
PROSPR_HD Lanes read(const From* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

template <typename Lanes, typename To>
PROSPR_HD void write(To* to, Lanes lanes) {
  __builtin_memcpy(to, &lanes, sizeof lanes);
}

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

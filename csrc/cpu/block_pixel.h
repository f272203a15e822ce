// A pixel of one channel in all samples of a block.
//
// Included only by files that are compiled once for each instruction set.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/vector.h"
#include "kernels/sparse_conv.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
struct Pixel {
  static constexpr int kParts = kBlockLanes / kVectorLanes<T>;
  Vector<T> parts[kParts];
};

template <typename T>
PROSPR_HD Pixel<T> read_pixel(const T* from) {
  Pixel<T> pixel;
  __builtin_memcpy(&pixel, from, sizeof pixel);
  return pixel;
}

template <typename T>
PROSPR_HD void add(Pixel<T>& sum, const Pixel<T>& other) {
  for (int i = 0; i < Pixel<T>::kParts; ++i) sum.parts[i] += other.parts[i];
}

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

// Calls part(first, count) until all of [first, count) have had their turn, kMost at once while
// there are so many.
template <int kMost, typename Part>
PROSPR_HD void for_tiles(std::int64_t first, std::int64_t count, Part part) {
  for (; count - first >= kMost; first += kMost) part(first, Constant<kMost>());
  if constexpr (kMost > 1) for_tiles<kMost / 2>(first, count, part);
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

// The single-threaded loops of select.h. select_kernels.cc is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "core/order_key.h"
#include "cpu/dispatch.h"

namespace prospr::cpu {

constexpr int kMaxBins = 1 << 14;

// The keys from `low` to `high`, both included, in at most kMaxBins bins of 2^shift keys each.
template <typename T>
struct Window {
  core::Key<T> low;
  core::Key<T> high;
  int shift;
};

struct Counted {
  std::int64_t above = 0;
  bool nan = false;
};

struct Marked {
  std::int64_t above = 0;
  std::int64_t tied = 0;
};

template <typename T>
struct SelectKernels {
  // Counts the keys above the window, adds those in it to bins, and looks for NaN.
  Counted (*count)(const T* scores, std::int64_t size, Window<T> window, std::int64_t* bins);

  // Writes the mask of the keys above `key`, and counts them and those that are equal to it.
  Marked (*mark)(const T* scores, std::int64_t size, core::Key<T> key, bool packed,
                 std::uint8_t* mask);
};

}  // namespace prospr::cpu

// What the tests share, in the emulation and on a card: arrays that end where their memory ends,
// and comparisons.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "core/half.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel_for.h"
#include "runtime.h"

namespace prospr::tests {

// How the CPU's kernels are run.
inline const cpu::ParallelFor kOneThread = [](std::int64_t n, double, const cpu::Work& work) {
  work(0, n);
};
constexpr auto kBaseline = cpu::InstructionSet::kBaseline;

// `offset` elements into memory of its own, so that AddressSanitizer watches both ends. The device
// reads and writes it, on a card too: nothing else may be handed to a kernel.
template <typename T>
class Array {
 public:
  explicit Array(std::int64_t size, std::int64_t offset = 0)
      : offset_(offset), memory_(static_cast<std::size_t>(size + offset)) {}

  T* data() { return memory_.data() + offset_; }
  const T* data() const { return memory_.data() + offset_; }
  std::int64_t size() const { return static_cast<std::int64_t>(memory_.size()) - offset_; }
  T& operator[](std::int64_t i) { return data()[i]; }
  const T& operator[](std::int64_t i) const { return data()[i]; }

 private:
  std::int64_t offset_;
  std::vector<T, Allocator<T>> memory_;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  template <typename T>
  Array<T> normal(std::int64_t size, double scale = 1, std::int64_t offset = 0) {
    std::normal_distribution<double> distribution(0, scale);
    Array<T> values(size, offset);
    for (std::int64_t i = 0; i < size; ++i) values[i] = narrow<T>(distribution(engine_));
    return values;
  }

  std::int64_t below(std::int64_t end) {
    return std::uniform_int_distribution<std::int64_t>(0, end - 1)(engine_);
  }

  // The 16-bit formats by cutting digits off: any value of them will do.
  template <typename T>
  static T narrow(double value) {
    if constexpr (std::is_floating_point_v<T>) {
      return static_cast<T>(value);
    } else {
      const std::uint32_t bits = core::to_bits(static_cast<float>(value));
      if constexpr (std::is_same_v<T, core::BFloat16>) {
        return {static_cast<std::uint16_t>(bits >> 16)};
      } else {
        const std::uint32_t exponent = std::min(bits >> 23 & 0xFF, 143u);
        if (exponent <= 112) return {0};
        return {static_cast<std::uint16_t>((bits >> 16 & 0x8000) | (exponent - 112) << 10 |
                                           (bits >> 13 & 0x3FF))};
      }
    }
  }

 private:
  std::mt19937 engine_;
};

inline int failures = 0;

inline void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++failures;
}

template <typename T>
void expect_same_bits(const Array<T>& got, const Array<T>& wanted, const std::string& what) {
  expect(got.size() == wanted.size() &&
             std::memcmp(got.data(), wanted.data(),
                         static_cast<std::size_t>(got.size()) * sizeof(T)) == 0,
         what + ": not the same bits");
}

// Waits for what a call enqueued. What went wrong with that, or else with the call; or nothing.
inline std::string finished(const std::string& wrong) {
  const std::string later = synchronise();
  return later.empty() ? wrong : later;
}

// Runs `test` with the blocks of every grid in order, then in reverse order, which must not matter.
template <typename Test>
auto in_both_orders(Test&& test, const std::string& what) {
  emulation::backwards = false;
  auto forwards = test();
  emulation::backwards = true;
  const auto backwards = test();
  emulation::backwards = false;
  for (std::size_t i = 0; i < forwards.size(); ++i) {
    expect_same_bits(backwards[i], forwards[i], what + ", blocks in reverse order");
  }
  return forwards;
}

void test_gamma();
void test_curvature();
void test_input_gradient();
void test_normalisation();
void test_pooling();
void test_select();

}  // namespace prospr::tests

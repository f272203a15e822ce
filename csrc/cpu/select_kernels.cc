#include "cpu/select_kernels.h"

#include "core/macros.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

using core::Key;
using core::order_key;

// As many as an integer has bits; few enough that in most blocks no score is in the window.
constexpr std::int64_t kBlock = 64;

// Eight bytes of 0 or 1 as the bits of one, the first in the highest. The product brings each
// byte's bit to its place, and no two of its terms meet.
PROSPR_HD std::uint8_t packed_flags(const std::uint8_t* flags) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  std::uint64_t word;
  std::memcpy(&word, flags, sizeof(word));
  return static_cast<std::uint8_t>(word * 0x8040201008040201u >> 56);
}

// `work` on blocks of kBlock scores, which compilers can unroll, and on what is left.
template <typename Work>
PROSPR_HD void for_blocks(std::int64_t size, const Work& work) {
  std::int64_t start = 0;
  for (; start + kBlock <= size; start += kBlock) work(start, kBlock);
  if (start < size) work(start, size - start);
}

template <typename T>
Counted count(const T* scores, std::int64_t size, Window<T> window, std::int64_t* bins) {
  Counted counted;
  Key<T> largest = 0;
  for_blocks(size, [&](std::int64_t start, std::int64_t block) __attribute__((always_inline)) {
    const T* const from = scores + start;
    Key<T> above = 0;
    Key<T> below = 0;
    for (std::int64_t i = 0; i < block; ++i) {
      const Key<T> key = order_key(from[i]);
      largest = key > largest ? key : largest;
      above += key > window.high;
      below += key < window.low;
    }
    counted.above += above;
    if (static_cast<Key<T>>(above + below) == static_cast<Key<T>>(block)) return;

    std::uint16_t bin[kBlock];
    std::uint8_t inside[kBlock] = {};
    for (std::int64_t i = 0; i < block; ++i) {
      const Key<T> key = order_key(from[i]);
      bin[i] = static_cast<std::uint16_t>(static_cast<Key<T>>(key - window.low) >> window.shift);
      inside[i] = (key >= window.low) & (key <= window.high);
    }
    std::uint64_t left = 0;
    for (std::int64_t i = 0; i < kBlock; i += 8) left = left << 8 | packed_flags(inside + i);
    while (left != 0) {
      const int i = __builtin_clzll(left);
      ++bins[bin[i]];
      left ^= std::uint64_t{1} << 63 >> i;
    }
  });
  counted.nan = largest > core::kLargestKey<T>;
  return counted;
}

template <typename T>
Marked mark(const T* scores, std::int64_t size, Key<T> key, bool packed, std::uint8_t* mask) {
  Marked marked;
  for_blocks(size, [&](std::int64_t start, std::int64_t block) __attribute__((always_inline)) {
    std::uint8_t flags[kBlock] = {};
    Key<T> above = 0;
    Key<T> tied = 0;
    for (std::int64_t i = 0; i < block; ++i) {
      const Key<T> other = order_key(scores[start + i]);
      flags[i] = other > key;
      above += other > key;
      tied += other == key;
    }
    marked.above += above;
    marked.tied += tied;
    if (!packed) {
      std::memcpy(mask + start, flags, block);
      return;
    }
    for (std::int64_t i = 0; i < block; i += 8) mask[(start + i) / 8] = packed_flags(flags + i);
  });
  return marked;
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(SelectKernels<float>, count, mark)
PROSPR_KERNELS(SelectKernels<double>, count, mark)
PROSPR_KERNELS(SelectKernels<core::Half>, count, mark)
PROSPR_KERNELS(SelectKernels<core::BFloat16>, count, mark)

// Max-pooling and its two maps against the CPU's kernels, to the bit.
#include "cuda/pooling.h"

#include <cmath>

#include "cpu/pooling.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

constexpr std::uint8_t kUnwritten = 0xEE;

// Runs `map(results)`, which writes to two arrays of the given sizes, on both devices.
template <typename T, typename Map>
void compare(const Windows& windows, std::int64_t size, std::int64_t offset, const Map& map,
             const std::string& what) {
  const auto unwritten = [&] {
    std::vector<Array<T>> arrays;
    for (int i = 0; i < 2; ++i) {
      arrays.emplace_back(size, offset);
      std::memset(arrays.back().data(), kUnwritten, static_cast<std::size_t>(size) * sizeof(T));
    }
    return arrays;
  };
  std::vector<Array<T>> wanted = unwritten();
  cpu::run(windows, map(wanted), kBaseline, kOneThread);
  const auto got = in_both_orders(
      [&] {
        std::vector<Array<T>> results = unwritten();
        const std::string wrong = finished(cuda::run(windows, map(results), nullptr, nullptr));
        expect(wrong.empty(), what + ": " + wrong);
        return results;
      },
      what);
  for (std::size_t i = 0; i < got.size(); ++i) {
    expect_same_bits(got[i], wanted[i], what + ", result " + std::to_string(i));
  }
}

template <typename T>
void test_windows(const Windows& windows, std::int64_t offset) {
  const std::int64_t size = windows.samples * windows.height * windows.width * windows.channels;
  const std::int64_t pooled =
      windows.samples * windows.rows() * windows.columns() * windows.channels;
  const std::string what =
      (sizeof(T) == 4 ? " of float, " : " of double, ") + std::to_string(windows.height) + " x " +
      std::to_string(windows.width) + " x " + std::to_string(windows.channels) + ", windows of " +
      std::to_string(windows.window_height) + " x " + std::to_string(windows.window_width);
  Random random(static_cast<unsigned>(size));
  Array<T> image = random.normal<T>(size, 1, offset);
  // Whole numbers, so that windows have ties, and now and then a NaN, which are told apart by sign.
  for (std::int64_t i = 0; i < size; ++i) {
    image[i] = std::trunc(image[i]);
    if (random.below(9) == 0) {
      image[i] = std::copysign(std::numeric_limits<T>::quiet_NaN(), T(random.below(2)) - T(0.5));
    }
  }
  Array<std::uint8_t> positions(pooled, offset);
  compare<T>(
      windows, pooled, offset,
      [&](std::vector<Array<T>>& to) {
        // The second result has room for the positions.
        return MaxPool<T>{image.data(), to[0].data(),
                          reinterpret_cast<std::uint8_t*>(to[1].data())};
      },
      "max_pool" + what);
  // Of which some are in no window.
  const std::int64_t elements = windows.window_height * windows.window_width;
  for (std::int64_t i = 0; i < pooled; ++i) {
    positions[i] = static_cast<std::uint8_t>(random.below(elements + 2));
  }
  const Array<T> values = random.normal<T>(pooled, 1, offset);
  compare<T>(
      windows, size, offset,
      [&](std::vector<Array<T>>& to) {
        return MaxUnpool<T>{values.data(), positions.data(), to[0].data()};
      },
      "max_unpool" + what);
  compare<T>(
      windows, pooled, offset,
      [&](std::vector<Array<T>>& to) {
        return GatherPooled<T>{image.data(), positions.data(), to[0].data()};
      },
      "gather_pooled" + what);
}

}  // namespace

void test_pooling() {
  // Images that windows fill, that have rows and columns left over, or both; more cells than a
  // block has threads; and what is empty.
  for (const Windows& windows :
       {Windows{2, 4, 6, 3, 2, 2}, Windows{3, 7, 5, 5, 2, 2}, Windows{1, 5, 7, 70, 3, 2},
        Windows{2, 3, 3, 1, 1, 1}, Windows{1, 16, 33, 2, 16, 15}, Windows{0, 4, 4, 3, 2, 2},
        Windows{2, 4, 4, 0, 2, 2}}) {
    test_windows<float>(windows, 0);
    test_windows<double>(windows, 1);
  }
}

}  // namespace prospr::tests

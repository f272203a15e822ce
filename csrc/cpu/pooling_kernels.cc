#include "cpu/pooling_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

// Some channels side by side: their values, and a position for each, as wide as a value and as
// bytes.
template <typename T, int kLanes>
struct Channels {
  using Wide = std::conditional_t<sizeof(T) == sizeof(std::int32_t), std::int32_t, std::int64_t>;
  using Values = Lanes<T, kLanes>;
  using Positions = Lanes<Wide, kLanes>;
  using Bytes = Lanes<std::uint8_t, kLanes>;
};

// Calls one(offset, position) for each element of a window: how far it is from the first one.
template <typename One>
PROSPR_HD void for_window(const Windows& windows, One one) {
  int position = 0;
  for (std::int64_t i = 0; i < windows.window_height; ++i) {
    for (std::int64_t j = 0; j < windows.window_width; ++j, ++position) {
      one((i * windows.width + j) * windows.channels, position);
    }
  }
}

// Some channels of one window: `image` is the offset of their first element in the image, `window`
// that of their first value in a tensor with one value per window.
template <int kLanes, typename T>
PROSPR_HD void pool(const Windows& windows, const MaxPool<T>& map, std::int64_t image,
                    std::int64_t window) {
  using Some = Channels<T, kLanes>;
  auto maximum = read<typename Some::Values>(map.image + image);
  typename Some::Positions at = {};
  for_window(windows, [&](std::int64_t offset, int position) {
    const auto value = read<typename Some::Values>(map.image + image + offset);
    const typename Some::Positions larger = (value > maximum) | (value != value);
    maximum = larger ? value : maximum;
    at = larger ? at * 0 + position : at;
  });
  write(map.maxima + window, maximum);
  write(map.positions + window, __builtin_convertvector(at, typename Some::Bytes));
}

template <int kLanes, typename T>
PROSPR_HD void pool(const Windows& windows, const MaxUnpool<T>& map, std::int64_t image,
                    std::int64_t window) {
  using Some = Channels<T, kLanes>;
  const auto value = read<typename Some::Values>(map.values + window);
  const auto at = __builtin_convertvector(read<typename Some::Bytes>(map.positions + window),
                                          typename Some::Positions);
  for_window(windows, [&](std::int64_t offset, int position) {
    write(map.image + image + offset, at == position ? value : typename Some::Values{});
  });
}

template <int kLanes, typename T>
PROSPR_HD void pool(const Windows& windows, const GatherPooled<T>& map, std::int64_t image,
                    std::int64_t window) {
  using Some = Channels<T, kLanes>;
  typename Some::Values value = {};
  const auto at = __builtin_convertvector(read<typename Some::Bytes>(map.positions + window),
                                          typename Some::Positions);
  for_window(windows, [&](std::int64_t offset, int position) {
    const auto element = read<typename Some::Values>(map.image + image + offset);
    value = at == position ? element : value;
  });
  write(map.values + window, value);
}

// Zeros where no window writes: to the right of a row of windows, and below the last one of a
// sample.
template <typename T>
PROSPR_HD void clear_rest(const Windows& windows, const MaxUnpool<T>& map, std::int64_t row) {
  const std::int64_t covered = windows.columns() * windows.window_width;
  const std::int64_t first = (row / windows.rows()) * windows.height;
  const std::int64_t top = (row % windows.rows()) * windows.window_height;
  const bool last = row % windows.rows() == windows.rows() - 1;
  for (std::int64_t i = top; i < (last ? windows.height : top + windows.window_height); ++i) {
    T* const line = map.image + (first + i) * windows.width * windows.channels;
    const bool below = i >= windows.rows() * windows.window_height;
    std::fill(line + (below ? 0 : covered * windows.channels),
              line + windows.width * windows.channels, T{0});
  }
}

template <typename Map>
PROSPR_HD void clear_rest(const Windows&, const Map&, std::int64_t) {}

template <int kLanes, typename Map>
void pool_rows(const Windows& windows, const Map& map, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = windows.channels;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t top =
        (row / windows.rows()) * windows.height + (row % windows.rows()) * windows.window_height;
    for (std::int64_t column = 0; column < windows.columns(); ++column) {
      const std::int64_t image = (top * windows.width + column * windows.window_width) * channels;
      const std::int64_t window = (row * windows.columns() + column) * channels;
      // The last vector ends with the last channel, and does some of them a second time.
      for (std::int64_t next = 0; next < channels; next += kLanes) {
        const std::int64_t c = std::min(next, channels - kLanes);
        pool<kLanes>(windows, map, image + c, window + c);
      }
    }
    clear_rest(windows, map, row);
  }
}

template <template <typename> class Map, typename T>
void pool_rows_by_vectors(const Windows& windows, const Map<T>& map, std::int64_t begin,
                          std::int64_t end) {
  constexpr std::int64_t kFew = 16 / sizeof(T);
  if (windows.channels >= kVectorLanes<T>) {
    pool_rows<kVectorLanes<T>>(windows, map, begin, end);
  } else if (windows.channels >= kFew) {
    pool_rows<kFew>(windows, map, begin, end);
  } else {
    pool_rows<1>(windows, map, begin, end);
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(PoolingKernel<MaxPool<float>>, pool_rows_by_vectors)
PROSPR_KERNELS(PoolingKernel<MaxPool<double>>, pool_rows_by_vectors)
PROSPR_KERNELS(PoolingKernel<MaxUnpool<float>>, pool_rows_by_vectors)
PROSPR_KERNELS(PoolingKernel<MaxUnpool<double>>, pool_rows_by_vectors)
PROSPR_KERNELS(PoolingKernel<GatherPooled<float>>, pool_rows_by_vectors)
PROSPR_KERNELS(PoolingKernel<GatherPooled<double>>, pool_rows_by_vectors)

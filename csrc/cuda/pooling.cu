// One thread per window and channel: neighbouring threads read neighbouring channels. Windows of
// 2 x 2 have loops of their own, whose four reads do not wait for one another.
#include <limits>

#include "cuda/launch.h"
#include "cuda/pooling.h"

namespace prospr::cuda {
namespace {

constexpr int kThreads = 256;

// A window and a channel. Where an image ends within a window, that is one too: MaxUnpool writes
// zeros there.
struct Cell {
  std::int64_t image;   // offset of its first element
  std::int64_t pooled;  // offset of its value, where it is whole
  int height;           // of what there is of it
  int width;
  bool whole;
};

// How many windows lie along each axis: those that are visited, and those that are whole.
struct Grid {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t whole_rows;
  std::int64_t whole_columns;
};

template <typename T>
Grid grid_of(const Windows& windows, const MaxUnpool<T>&) {
  return {ceil_divide(windows.height, windows.window_height),
          ceil_divide(windows.width, windows.window_width), windows.rows(), windows.columns()};
}
template <typename Map>
Grid grid_of(const Windows& windows, const Map&) {
  return {windows.rows(), windows.columns(), windows.rows(), windows.columns()};
}

// Takes the last digit off a number.
template <typename Index>
__device__ std::int64_t take(Index& number, std::int64_t base) {
  const Index digit = number % static_cast<Index>(base);
  number /= static_cast<Index>(base);
  return static_cast<std::int64_t>(digit);
}

__device__ std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <typename Index>
__device__ Cell cell_at(Index index, const Windows& windows, const Grid& grid) {
  const std::int64_t channel = take(index, windows.channels);
  const std::int64_t column = take(index, grid.columns);
  const std::int64_t row = take(index, grid.rows);
  const auto sample = static_cast<std::int64_t>(index);
  const std::int64_t top = row * windows.window_height;
  const std::int64_t left = column * windows.window_width;
  const std::int64_t height = smaller(windows.height - top, windows.window_height);
  const std::int64_t width = smaller(windows.width - left, windows.window_width);
  Cell cell{};
  cell.image =
      ((sample * windows.height + top) * windows.width + left) * windows.channels + channel;
  cell.pooled =
      ((sample * grid.whole_rows + row) * grid.whole_columns + column) * windows.channels + channel;
  cell.height = static_cast<int>(height);
  cell.width = static_cast<int>(width);
  cell.whole = height == windows.window_height && width == windows.window_width;
  return cell;
}

// Calls one(offset, position) for each element of the cell; a side of 0 is known at run time only.
template <int kSide, typename One>
__device__ void for_cell(const Windows& windows, const Cell& cell, One one) {
  const int height = kSide == 0 ? cell.height : kSide;
  const int width = kSide == 0 ? cell.width : kSide;
  int position = 0;
#pragma unroll
  for (int i = 0; i < height; ++i) {
#pragma unroll
    for (int j = 0; j < width; ++j, ++position) {
      one(cell.image + (i * windows.width + j) * windows.channels, position);
    }
  }
}

template <int kSide, typename T>
__device__ void pool(const Windows& windows, const MaxPool<T>& map, const Cell& cell) {
  T maximum = map.image[cell.image];
  int at = 0;
  for_cell<kSide>(windows, cell, [&](std::int64_t offset, int position) {
    const T value = map.image[offset];
    if (value > maximum || value != value) {
      maximum = value;
      at = position;
    }
  });
  map.maxima[cell.pooled] = maximum;
  map.positions[cell.pooled] = static_cast<std::uint8_t>(at);
}

template <int kSide, typename T>
__device__ void pool(const Windows& windows, const MaxUnpool<T>& map, const Cell& cell) {
  if (!cell.whole) {
    for_cell<0>(windows, cell, [&](std::int64_t offset, int) { map.image[offset] = 0; });
    return;
  }
  const T value = map.values[cell.pooled];
  const int at = map.positions[cell.pooled];
  for_cell<kSide>(windows, cell, [&](std::int64_t offset, int position) {
    map.image[offset] = at == position ? value : T(0);
  });
}

template <int kSide, typename T>
__device__ void pool(const Windows& windows, const GatherPooled<T>& map, const Cell& cell) {
  const std::int64_t at = map.positions[cell.pooled];
  const std::int64_t i = at / windows.window_width;
  const std::int64_t offset = (i * windows.width + at % windows.window_width) * windows.channels;
  map.values[cell.pooled] = i < windows.window_height ? map.image[cell.image + offset] : T(0);
}

template <int kSide, typename Map>
__global__ void __launch_bounds__(kThreads) pool_cells(Windows windows, Map map, Grid grid) {
  const std::int64_t cells = windows.samples * grid.rows * grid.columns * windows.channels;
  // Divisions of 64 bits would take longer than the reads.
  const bool is_small = cells <= std::numeric_limits<std::uint32_t>::max();
  for (std::int64_t i = global_thread(); i < cells; i += global_threads()) {
    const Cell cell = is_small ? cell_at(static_cast<std::uint32_t>(i), windows, grid)
                               : cell_at(static_cast<std::uint64_t>(i), windows, grid);
    pool<kSide>(windows, map, cell);
  }
}

}  // namespace

template <typename Map>
std::string run(const Windows& windows, const Map& map, void*, Stream stream) {
  const Grid grid = grid_of(windows, map);
  const std::int64_t cells = windows.samples * grid.rows * grid.columns * windows.channels;
  if (cells == 0) return "";
  const auto kernel = windows.window_height == 2 && windows.window_width == 2 ? pool_cells<2, Map>
                                                                              : pool_cells<0, Map>;
  return launch("pooling", kernel, blocks_for(cells, kThreads), kThreads, stream, windows, map,
                grid);
}

#define INSTANTIATE(Map) template std::string run(const Windows&, const Map&, void*, Stream)
INSTANTIATE(MaxPool<float>);
INSTANTIATE(MaxPool<double>);
INSTANTIATE(MaxUnpool<float>);
INSTANTIATE(MaxUnpool<double>);
INSTANTIATE(GatherPooled<float>);
INSTANTIATE(GatherPooled<double>);
#undef INSTANTIATE

}  // namespace prospr::cuda

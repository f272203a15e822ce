#include "cpu/sparse_conv_small_kernels.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "cpu/aligned_buffer.h"
#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

template <typename T>
constexpr int kEdge = static_cast<int>(kVectorLanes<T>);

// A square of as many vectors as a vector has lanes.
template <typename T>
struct Square {
  Vector<T> rows[kEdge<T>];
};

template <typename T, int... kLane>
PROSPR_HD void interleave(Vector<T> a, Vector<T> b, Vector<T>* low, Vector<T>* high,
                          std::integer_sequence<int, kLane...>) {
  constexpr int kHalf = kEdge<T> / 2;
  *low = __builtin_shufflevector(a, b, (kLane / 2 + kLane % 2 * kEdge<T>)...);
  *high = __builtin_shufflevector(a, b, (kHalf + kLane / 2 + kLane % 2 * kEdge<T>)...);
}

// Each round interleaves row i with row i + half; after log2 of the edge of them, rows are columns.
template <typename T>
PROSPR_HD void transpose(Square<T>& square) {
  constexpr int kHalf = kEdge<T> / 2;
#pragma GCC unroll 4
  for (int round = 1; round < kEdge<T>; round *= 2) {
    Square<T> next;
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) {
      interleave<T>(square.rows[i], square.rows[i + kHalf], &next.rows[2 * i],
                    &next.rows[2 * i + 1], std::make_integer_sequence<int, kEdge<T>>());
    }
    square = next;
  }
}

// Of `lanes` channels from a pixel on, side by side, each channel's pixels: to[channel * stride +
// pixel], for whole vectors of pixels.
template <typename T>
void to_planes(const T* from, std::int64_t pixels, std::int64_t channels, std::int64_t lanes, T* to,
               std::int64_t stride) {
  constexpr std::int64_t kLanes = kEdge<T>;
  for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
    const std::int64_t some = std::min(kLanes, lanes - lane);
    for (std::int64_t pixel = 0; pixel < pixels; pixel += kLanes) {
      const T* source = from + pixel * channels + lane;
      T* target = to + lane * stride + pixel;
      if (some == 1 && channels == 1) {
        std::copy_n(source, std::min(kLanes, pixels - pixel), target);
        continue;
      }
      Square<T> square{};
      const std::int64_t rows = std::min(kLanes, pixels - pixel);
      if (some == kLanes && rows == kLanes) {
        for (int i = 0; i < kLanes; ++i, source += channels) square.rows[i] = load(source);
      } else {
        for (int i = 0; i < rows; ++i, source += channels) {
          __builtin_memcpy(&square.rows[i], source, some * sizeof(T));
        }
      }
      transpose<T>(square);
      for (int i = 0; i < some; ++i) store(target + i * stride, square.rows[i]);
    }
  }
}

template <typename T>
void lay(const SmallPlan& plan, const T* image, T* scratch, std::int64_t begin, std::int64_t end) {
  const std::int64_t chunks = small_chunks(plan.channels);
  const std::int64_t zero = plan.group * plan.pixels;
  const std::int64_t plane = small_chunks(zero + 1) * kSmallLanes + kSmallLanes;
  AlignedBuffer<T> memory(plan.direct ? 0 : kSmallLanes * plane);
  T* const planes = memory.data();
  if (!plan.direct) std::fill_n(planes, kSmallLanes * plane, T{0});
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t group = item / chunks;
    const std::int64_t channel = item % chunks * kSmallLanes;
    const std::int64_t lanes = std::min(kSmallLanes, plan.channels - channel);
    const T* const from = image + group * plan.group * plan.pixels * plan.channels + channel;
    T* const to = scratch + group * plan.group_size() + channel * plan.stride;
    const std::int64_t pixels = plan.group_images(group) * plan.pixels;
    if (plan.direct) {
      to_planes(from, pixels, plan.channels, lanes, to, plan.stride);
      continue;
    }
    to_planes(from, pixels, plan.channels, lanes, planes, plane);
    const std::int32_t* const elements = plan.elements.data();
    const auto size = static_cast<std::int64_t>(plan.elements.size());
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      T* const row = planes + lane * plane;
      row[zero] = T{0};
      T* const target = to + lane * plan.stride;
      for (std::int64_t i = 0; i < size; ++i) target[i] = row[elements[i]];
    }
  }
}

// The weights of all filters, and where they read.
template <typename T, typename Offset>
struct Rows {
  const std::int32_t* splits;
  const Offset* offsets;
  std::int64_t unit;
  const SparseConvSmall<T>& map;

  const T* at(const T* source, std::int64_t k) const { return source + offsets[k] * unit; }
};

// Of filters [begin, end) the results at kCount vectors of positions: buffer[filter - begin,
// position].
template <int kLanes, int kCount, typename T, typename Offset>
void add_up(const Rows<T, Offset>& rows, const T* source, std::int64_t begin, std::int64_t end,
            T* buffer) {
  using Part = Lanes<T, kLanes>;
  // So many sums that no addition waits for the one before.
  constexpr int kSums = kCount >= 4 ? 1 : 4 / kCount;
  const T* const weights = rows.map.weights;
  for (std::int64_t f = begin; f < end; ++f, buffer += kSmallTile) {
    Part sums[kSums][kCount] = {};
    const std::int64_t last = rows.splits[f + 1];
    std::int64_t k = rows.splits[f];
    for (; k + kSums <= last; k += kSums) {
#pragma GCC unroll 4
      for (int s = 0; s < kSums; ++s) {
        const T* const from = rows.at(source, k + s);
        const T weight = weights[k + s];
#pragma GCC unroll 32
        for (int i = 0; i < kCount; ++i) sums[s][i] += weight * read<Part>(from + i * kLanes);
      }
    }
    for (; k < last; ++k) {
      const T* const from = rows.at(source, k);
#pragma GCC unroll 32
      for (int i = 0; i < kCount; ++i) sums[0][i] += weights[k] * read<Part>(from + i * kLanes);
    }
    for (int i = 0; i < kCount; ++i) {
      for (int s = 1; s < kSums; ++s) sums[0][i] += sums[s][i];
      write(buffer + i * kLanes, rows.map.bias[f] + rows.map.scale[f] * sums[0][i]);
    }
  }
}

// The same at one position, of one filter.
template <typename T, typename Offset>
T dot(const Rows<T, Offset>& rows, const T* source, std::int64_t f) {
  constexpr int kSums = 8;
  const T* const weights = rows.map.weights;
  T sums[kSums] = {};
  const std::int64_t last = rows.splits[f + 1];
  std::int64_t k = rows.splits[f];
  for (; k + kSums <= last; k += kSums) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) sums[s] += weights[k + s] * *rows.at(source, k + s);
  }
  for (; k < last; ++k) sums[0] += weights[k] * *rows.at(source, k);
  for (int s = 1; s < kSums; ++s) sums[0] += sums[s];
  return rows.map.bias[f] + rows.map.scale[f] * sums[0];
}

template <int kMost, typename T, typename Offset>
void add_up_vectors(std::int64_t count, const Rows<T, Offset>& rows, const T* source,
                    std::int64_t begin, std::int64_t end, T* buffer) {
  constexpr int kLanes = kEdge<T>;
  if (count == kMost) {
    add_up<kLanes, kMost>(rows, source, begin, end, buffer);
  } else if constexpr (kMost > 1) {
    add_up_vectors<kMost - 1>(count, rows, source, begin, end, buffer);
  }
}

// All positions of a tile, as many vectors at once as there are registers for.
template <typename T, typename Offset>
void add_up_tile(std::int64_t positions, const Rows<T, Offset>& rows, const T* source,
                 std::int64_t begin, std::int64_t end, T* buffer) {
  constexpr std::int64_t kLanes = kEdge<T>;
  if constexpr (kLanes > 4) {
    if (positions <= 4) return add_up<4, 1>(rows, source, begin, end, buffer);
  }
  if constexpr (kLanes > 8) {
    if (positions <= 8) return add_up<8, 1>(rows, source, begin, end, buffer);
  }
  constexpr std::int64_t kMost = 8;
  for (std::int64_t vectors = (positions + kLanes - 1) / kLanes; vectors > 0;) {
    const std::int64_t some =
        vectors > kMost && vectors < 2 * kMost ? (vectors + 1) / 2 : std::min(vectors, kMost);
    add_up_vectors<kMost>(some, rows, source, begin, end, buffer);
    vectors -= some;
    source += some * kLanes;
    buffer += some * kLanes;
  }
}

// Writes the sums of some filters where their outputs lie: output[target * filters + filter].
template <typename T>
void write_out(const T* buffer, const std::int32_t* targets, std::int64_t positions,
               std::int64_t most, std::int64_t some, std::int64_t filters, T* output) {
  constexpr std::int64_t kLanes = kEdge<T>;
  for (std::int64_t lane = 0; lane < some; lane += kLanes) {
    const std::int64_t lanes = std::min(kLanes, some - lane);
    for (std::int64_t first = 0; first < positions; first += kLanes) {
      Square<T> square{};
      for (int i = 0; i < lanes; ++i) {
        square.rows[i] = load(buffer + (lane + i) * kSmallTile + first);
      }
      transpose<T>(square);
      const std::int64_t last = std::min(kLanes, positions - first);
      for (int i = 0; i < last; ++i) {
        const std::int64_t target = targets[first + i];
        if (target < 0 || target >= most) continue;
        T* const to = output + target * filters + lane;
        if (lanes == kLanes) {
          store(to, square.rows[i]);
        } else {
          __builtin_memcpy(to, &square.rows[i], lanes * sizeof(T));
        }
      }
    }
  }
}

template <typename T, typename Offset>
void multiply_by(const SmallPlan& plan, const Rows<T, Offset>& rows, const T* scratch,
                 std::int64_t begin, std::int64_t end) {
  const std::int64_t chunks = small_chunks(plan.filters);
  alignas(64) T buffer[kSmallLanes * kSmallTile] = {};
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t first = item % chunks * kSmallLanes;
    const std::int64_t some = std::min(kSmallLanes, plan.filters - first);
    const std::int64_t group = item / chunks / plan.tiles();
    const std::int64_t tile = item / chunks % plan.tiles() * plan.tile;
    const T* const source = scratch + group * plan.group_size() + tile;
    T* const output = rows.map.output + group * plan.group * plan.results * plan.filters + first;
    if (plan.tile == 1) {
      for (std::int64_t i = 0; i < some; ++i) output[i] = dot(rows, source, first + i);
      continue;
    }
    const std::int64_t positions = std::min(plan.tile, plan.positions - tile);
    add_up_tile(positions, rows, source, first, first + some, buffer);
    write_out(buffer, plan.targets.data() + tile, positions,
              plan.group_images(group) * plan.results, some, plan.filters, output);
  }
}

template <typename T>
void multiply(const SmallPlan& plan, const SparseConvSmall<T>& map, const T* scratch,
              std::int64_t begin, std::int64_t end) {
  const auto with = [&](const auto& offsets) {
    using Offset = typename std::decay_t<decltype(offsets)>::value_type;
    const Rows<T, Offset> rows{plan.splits.data(), offsets.data(), plan.unit, map};
    multiply_by(plan, rows, scratch, begin, end);
  };
  plan.offsets.empty() ? with(plan.short_offsets) : with(plan.offsets);
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(SmallKernels<float>, lay<float>, multiply<float>)
PROSPR_KERNELS(SmallKernels<double>, lay<double>, multiply<double>)

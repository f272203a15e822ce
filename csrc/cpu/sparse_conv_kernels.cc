#include "cpu/sparse_conv_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/aligned_buffer.h"
#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

// A pixel of one channel in all samples of a block.
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
PROSPR_HD void add_product(Pixel<T>& sum, const Pixel<T>& one, const T* other) {
#pragma GCC unroll 8
  for (int i = 0; i < Pixel<T>::kParts; ++i) {
    sum.parts[i] += one.parts[i] * read<Vector<T>>(other + i * kVectorLanes<T>);
  }
}

template <typename T>
PROSPR_HD void add_product(Pixel<T>& sum, T weight, const T* other) {
#pragma GCC unroll 8
  for (int i = 0; i < Pixel<T>::kParts; ++i) {
    sum.parts[i] += weight * read<Vector<T>>(other + i * kVectorLanes<T>);
  }
}

template <typename T>
PROSPR_HD void add(Pixel<T>& sum, const Pixel<T>& other) {
  for (int i = 0; i < Pixel<T>::kParts; ++i) sum.parts[i] += other.parts[i];
}

// Positions whose sums are kept side by side: enough that no addition waits for the one before, as
// far as there are registers.
constexpr int kTile = kVectorBytes / 8;

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

// Calls part(first, count) until all of [0, count) have had their turn, kMost at once while there
// are so many.
template <int kMost, typename Part>
PROSPR_HD void for_tiles(std::int64_t first, std::int64_t count, Part part) {
  for (; count - first >= kMost; first += kMost) part(first, Constant<kMost>());
  if constexpr (kMost > 1) for_tiles<kMost / 2>(first, count, part);
}

// What is read of a group of blocks: where it is, or laid into `frame`, whose rest is zero.
template <typename T>
const T* lay(const Reading& reading, const T* source, std::int64_t group, T* frame) {
  const std::int64_t height = reading.source[1];
  const std::int64_t width = reading.source[2];
  const std::int64_t channels = reading.source[3];
  const std::int64_t block = height * width * channels * kBlockLanes;
  source += group * reading.group * block;
  if (!reading.framed) return source;
  const Strides& strides = reading.strides;
  const std::int64_t rows =
      std::min(height, (reading.frame_rows - reading.above + reading.row_distance - 1) /
                           reading.row_distance);
  const std::int64_t columns =
      std::min(width, (reading.frame_columns - reading.left + reading.column_distance - 1) /
                          reading.column_distance);
  for (std::int64_t b = 0; b < reading.group_blocks(group); ++b) {
    for (std::int64_t row = 0; row < rows; ++row) {
      T* const to = frame + b * strides.block +
                    (reading.above + row * reading.row_distance) * strides.row +
                    reading.left * strides.column;
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        const T* from = source + b * block + (row * width * channels + channel) * kBlockLanes;
        T* pixel = to + channel * strides.channel;
        for (std::int64_t column = 0; column < columns; ++column) {
          write(pixel, read_pixel(from));
          from += channels * kBlockLanes;
          pixel += reading.column_distance * kBlockLanes;
        }
      }
    }
  }
  return frame;
}

template <typename T>
AlignedBuffer<T> empty_frame(const Reading& reading) {
  AlignedBuffer<T> frame(reading.frame_size());
  std::fill_n(frame.data(), reading.frame_size(), T{0});
  return frame;
}

// Some rows of a sparse matrix at kCount positions side by side.
template <int kCount, typename T>
PROSPR_HD void multiply_tile(const Reading& reading, const SparseProduct<T>& product,
                             const T* source, const std::int64_t* positions, std::int64_t begin,
                             std::int64_t end, T* result) {
  const T* from[kCount];
  for (int p = 0; p < kCount; ++p) from[p] = source + positions[p];
  const std::int32_t* const offsets = reading.offsets.data();
  for (std::int64_t row = begin; row < end; ++row) {
    Pixel<T> sums[kCount];
    const T bias = product.bias == nullptr ? T{0} : product.bias[row];
    for (auto& sum : sums) {
      for (auto& part : sum.parts) part = Vector<T>{} + bias;
    }
    const std::int64_t last = product.splits[row + 1];
    for (std::int64_t k = product.splits[row]; k < last; ++k) {
      const std::int64_t offset = offsets[k];
      const T weight = product.weights[k];
#pragma GCC unroll 8
      for (int p = 0; p < kCount; ++p) add_product(sums[p], weight, from[p] + offset);
    }
    T* to = result + row * kBlockLanes;
    for (int p = 0; p < kCount; ++p, to += product.rows * kBlockLanes) write(to, sums[p]);
  }
}

template <typename T>
void multiply(const Reading& reading, const SparseProduct<T>& product, std::int64_t begin,
              std::int64_t end) {
  AlignedBuffer<T> frame = empty_frame<T>(reading);
  std::int64_t laid = -1;
  const T* source = nullptr;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t group = item / product.chunks;
    const std::int64_t chunk = item % product.chunks;
    if (group != laid) source = lay(reading, product.source, group, frame.data());
    laid = group;
    const std::int64_t first = product.rows * chunk / product.chunks;
    const std::int64_t last = product.rows * (chunk + 1) / product.chunks;
    const std::int64_t position = group * reading.group * reading.block_positions;
    T* const result = product.result + position * product.rows * kBlockLanes;
    for_tiles<kTile>(0, reading.group_blocks(group) * reading.block_positions,
                     [&](std::int64_t tile, auto count) {
                       multiply_tile<count>(reading, product, source,
                                            reading.positions.data() + tile, first, last,
                                            result + tile * product.rows * kBlockLanes);
                     });
  }
}

// What is left of a pixel in a sum over samples that goes on.
template <typename T>
constexpr int kPartial = kVectorLanes<T> < 4 ? kVectorLanes<T> : 4;
template <typename T>
using Partial = Lanes<T, kPartial<T>>;

template <typename T, int kLanes>
PROSPR_HD Partial<T> halved(Lanes<T, kLanes> lanes) {
  if constexpr (kLanes == kPartial<T>) {
    return lanes;
  } else {
    Lanes<T, kLanes / 2> halves[2];
    __builtin_memcpy(halves, &lanes, sizeof lanes);
    return halved<T, kLanes / 2>(halves[0] + halves[1]);
  }
}

template <typename T>
PROSPR_HD Partial<T> partial(const Pixel<T>& pixel) {
  Vector<T> sum = pixel.parts[0];
  for (int i = 1; i < Pixel<T>::kParts; ++i) sum += pixel.parts[i];
  return halved<T, kVectorLanes<T>>(sum);
}

template <typename T>
PROSPR_HD T total(const Partial<T>& lanes) {
  T sum = 0;
  for (int i = 0; i < kPartial<T>; ++i) sum += lanes[i];
  return sum;
}

// Adds to the sums of some filters' weights what kCount positions side by side add.
template <int kCount, typename T>
PROSPR_HD void add_tile(const Reading& reading, std::int64_t filters,
                        const SparseConvFilterGradient<T>& map, const T* source,
                        const std::int64_t* positions, const T* gradient, std::int64_t begin,
                        std::int64_t end, Partial<T>* sums, Partial<T>* biases) {
  const std::int32_t* const splits = map.pattern.splits;
  const std::int32_t* const offsets = reading.offsets.data();
  const T* from[kCount];
  for (int p = 0; p < kCount; ++p) from[p] = source + positions[p];
  for (std::int64_t f = begin; f < end; ++f) {
    Pixel<T> gradients[kCount];
    Pixel<T> bias{};
    for (int p = 0; p < kCount; ++p) {
      gradients[p] = read_pixel(gradient + (p * filters + f) * kBlockLanes);
      add(bias, gradients[p]);
    }
    biases[f - begin] += partial<T>(bias);
    for (std::int64_t k = splits[f]; k < splits[f + 1]; ++k) {
      const std::int64_t offset = offsets[k];
      Pixel<T> sum[kCount == 1 ? 1 : 2] = {};  // two, so that no addition waits for the one before
#pragma GCC unroll 8
      for (int p = 0; p < kCount; ++p) {
        add_product(sum[kCount == 1 ? 0 : p % 2], gradients[p], from[p] + offset);
      }
      if constexpr (kCount > 1) add(sum[0], sum[1]);
      sums[k - splits[begin]] += partial<T>(sum[0]);
    }
  }
}

template <typename T>
void filter_gradient(const Reading& reading, std::int64_t filters,
                     const SparseConvFilterGradient<T>& map, std::int64_t first, std::int64_t last,
                     std::int64_t begin, std::int64_t end, T* by_weights, T* by_biases) {
  const std::int32_t* const splits = map.pattern.splits;
  const std::int64_t count = splits[end] - splits[begin];
  AlignedBuffer<Partial<T>> memory(count + end - begin);
  Partial<T>* const sums = memory.data();
  Partial<T>* const biases = sums + count;
  std::fill_n(sums, count + end - begin, Partial<T>{});
  AlignedBuffer<T> frame = empty_frame<T>(reading);
  for (std::int64_t group = first; group < last; ++group) {
    const T* const source = lay(reading, map.image, group, frame.data());
    const T* const gradient = map.output_gradient + group * reading.group *
                                                        reading.block_positions * filters *
                                                        kBlockLanes;
    for_tiles<kTile>(0, reading.group_blocks(group) * reading.block_positions,
                     [&](std::int64_t tile, auto size) {
                       add_tile<size>(
                           reading, filters, map, source, reading.positions.data() + tile,
                           gradient + tile * filters * kBlockLanes, begin, end, sums, biases);
                     });
  }
  for (std::int64_t k = 0; k < count; ++k) by_weights[k] = total<T>(sums[k]);
  for (std::int64_t f = 0; f < end - begin; ++f) by_biases[f] = total<T>(biases[f]);
}

// Calls part(first sample, samples, first element, elements, where they lie in the blocks) for each
// square of a block.
template <typename Map, typename Part>
PROSPR_HD void for_squares(const Map& map, std::int64_t begin, std::int64_t end, Part part) {
  const std::int64_t columns = (map.size + kBlockLanes - 1) / kBlockLanes;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t block = item / columns;
    const std::int64_t element = item % columns * kBlockLanes;
    const std::int64_t sample = block * kBlockLanes;
    part(sample, std::min(kBlockLanes, map.samples - sample), element,
         std::min(kBlockLanes, map.size - element), (block * map.size + element) * kBlockLanes);
  }
}

template <typename T>
void to_blocks(const ToBlocks<T>& map, std::int64_t begin, std::int64_t end) {
  for_squares(map, begin, end,
              [&](std::int64_t sample, std::int64_t samples, std::int64_t element,
                  std::int64_t elements, std::int64_t blocked) {
                alignas(64) T square[kBlockLanes][kBlockLanes] = {};
                const T* from = map.from + sample * map.size + element;
                if (samples == kBlockLanes && elements == kBlockLanes) {
                  for (int s = 0; s < kBlockLanes; ++s, from += map.size) {
                    for (int e = 0; e < kBlockLanes; ++e) square[e][s] = from[e];
                  }
                } else {
                  for (std::int64_t s = 0; s < samples; ++s, from += map.size) {
                    for (std::int64_t e = 0; e < elements; ++e) square[e][s] = from[e];
                  }
                }
                std::copy_n(square[0], elements * kBlockLanes, map.to + blocked);
              });
}

template <typename T>
void from_blocks(const FromBlocks<T>& map, std::int64_t begin, std::int64_t end) {
  for_squares(map, begin, end,
              [&](std::int64_t sample, std::int64_t samples, std::int64_t element,
                  std::int64_t elements, std::int64_t blocked) {
                alignas(64) T square[kBlockLanes][kBlockLanes];
                std::copy_n(map.from + blocked, elements * kBlockLanes, square[0]);
                T* to = map.to + sample * map.size + element;
                if (samples == kBlockLanes && elements == kBlockLanes) {
                  for (int s = 0; s < kBlockLanes; ++s, to += map.size) {
                    for (int e = 0; e < kBlockLanes; ++e) to[e] = square[e][s];
                  }
                } else {
                  for (std::int64_t s = 0; s < samples; ++s, to += map.size) {
                    for (std::int64_t e = 0; e < elements; ++e) to[e] = square[e][s];
                  }
                }
              });
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(SparseProductKernel<float>, multiply)
PROSPR_KERNELS(SparseProductKernel<double>, multiply)
PROSPR_KERNELS(SparseFilterGradientKernel<float>, filter_gradient)
PROSPR_KERNELS(SparseFilterGradientKernel<double>, filter_gradient)
PROSPR_KERNELS(BlocksKernel<ToBlocks<float>>, to_blocks)
PROSPR_KERNELS(BlocksKernel<ToBlocks<double>>, to_blocks)
PROSPR_KERNELS(BlocksKernel<FromBlocks<float>>, from_blocks)
PROSPR_KERNELS(BlocksKernel<FromBlocks<double>>, from_blocks)

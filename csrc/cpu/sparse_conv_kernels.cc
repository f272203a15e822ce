#include "cpu/sparse_conv_kernels.h"

#include <algorithm>
#include <type_traits>

#include "cpu/aligned_buffer.h"
#include "cpu/vector.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

// Output columns whose sums are kept side by side: enough that no addition waits for the one
// before.
constexpr int kColumns = 4;
// Vectors of samples likewise.
constexpr int kVectors = 2;

template <int kNumber>
using Constant = std::integral_constant<int, kNumber>;

template <int kLanes, int kWidth, typename Part>
PROSPR_HD std::int64_t whole_parts(std::int64_t begin, std::int64_t end, Part part) {
  for (; end - begin >= kLanes * kWidth; begin += kLanes * kWidth) {
    part(begin, Constant<kLanes>(), Constant<kWidth>());
  }
  return begin;
}

// Calls part(first sample, lanes, vectors) until all samples in [begin, end) have had their turn,
// by vectors as wide as there are samples left for.
template <typename T, typename Part>
PROSPR_HD void for_samples(std::int64_t begin, std::int64_t end, Part part) {
  constexpr int kFew = 16 / sizeof(T);
  begin = whole_parts<kVectorLanes<T>, kVectors>(begin, end, part);
  begin = whole_parts<kVectorLanes<T>, 1>(begin, end, part);
  begin = whole_parts<kFew, 1>(begin, end, part);
  whole_parts<1, 1>(begin, end, part);
}

// Elements between neighbours, of an image and of an output.
struct Strides {
  explicit Strides(const SparseConvShape& shape)
      : column(shape.channels * shape.samples),
        row(shape.width * column),
        output_column(shape.filters * shape.samples),
        output_row(shape.columns() * output_column) {}

  std::int64_t image(std::int64_t r, std::int64_t c) const { return r * row + c * column; }
  std::int64_t output(std::int64_t r, std::int64_t c) const {
    return r * output_row + c * output_column;
  }

  std::int64_t column;
  std::int64_t row;
  std::int64_t output_column;
  std::int64_t output_row;
};

// One filter at some columns side by side, for some samples.
template <int kLanes, int kWidth, int kCount, typename T>
PROSPR_HD void convolve(const Strides& strides, const std::int64_t* offsets, std::int64_t begin,
                        std::int64_t end, const T* image, const T* weights, T bias, T* output) {
  Lanes<T, kLanes> sums[kCount][kWidth];
  for (auto& column : sums) {
    for (auto& sum : column) sum = Lanes<T, kLanes>{} + bias;
  }
  for (std::int64_t k = begin; k < end; ++k) {
    const T* const from = image + offsets[k];
    for (int c = 0; c < kCount; ++c) {
      for (int v = 0; v < kWidth; ++v) {
        sums[c][v] += weights[k] * read<Lanes<T, kLanes>>(from + c * strides.column + v * kLanes);
      }
    }
  }
  for (int c = 0; c < kCount; ++c) {
    for (int v = 0; v < kWidth; ++v) {
      write(output + c * strides.output_column + v * kLanes, sums[c][v]);
    }
  }
}

// Calls position(row, column, count) until all positions of the filters have had their turn: kCount
// columns at once, and what is left of a row one by one.
template <int kCount, typename Position>
PROSPR_HD void for_positions(const SparseConvShape& shape, Position position) {
  for (std::int64_t row = 0; row < shape.rows(); ++row) {
    std::int64_t column = 0;
    for (; column + kCount <= shape.columns(); column += kCount) {
      position(row, column, Constant<kCount>());
    }
    for (; column < shape.columns(); ++column) position(row, column, Constant<1>());
  }
}

template <typename T>
void loop(const SparseConvShape& shape, const std::int64_t* offsets, const std::int32_t* splits,
          const SparseConv<T>& map, std::int64_t begin, std::int64_t end) {
  const Strides strides(shape);
  const std::int64_t last = std::min(end * kSampleBlock, shape.samples);
  for_samples<T>(begin * kSampleBlock, last, [&](std::int64_t first, auto lanes, auto vectors) {
    for_positions<kColumns>(shape, [&](std::int64_t row, std::int64_t column, auto count) {
      const T* const image = map.image + strides.image(row, column) + first;
      T* const output = map.output + strides.output(row, column) + first;
      for (std::int64_t f = 0; f < shape.filters; ++f) {
        convolve<lanes, vectors, count>(strides, offsets, splits[f], splits[f + 1], image,
                                        map.weights, map.bias[f], output + f * shape.samples);
      }
    });
  });
}

template <typename T>
void loop(const SparseConvShape& shape, const std::int64_t* offsets, const std::int32_t* splits,
          const SparseConvInputGradient<T>& map, std::int64_t begin, std::int64_t end) {
  const Strides strides(shape);
  const std::int64_t last = std::min(end * kSampleBlock, shape.samples);
  for (std::int64_t i = 0; i < shape.height * shape.width * shape.channels; ++i) {
    T* const line = map.image_gradient + i * shape.samples;
    std::fill(line + begin * kSampleBlock, line + last, T{0});
  }
  for_samples<T>(begin * kSampleBlock, last, [&](std::int64_t first, auto lanes, auto vectors) {
    using Part = Lanes<T, lanes>;
    for_positions<1>(shape, [&](std::int64_t row, std::int64_t column, auto) {
      const T* output = map.output_gradient + strides.output(row, column) + first;
      T* const image = map.image_gradient + strides.image(row, column) + first;
      for (std::int64_t f = 0; f < shape.filters; ++f, output += shape.samples) {
        Part gradients[decltype(vectors)::value];
        for (int v = 0; v < vectors; ++v) gradients[v] = read<Part>(output + v * lanes);
        for (std::int64_t k = splits[f]; k < splits[f + 1]; ++k) {
          for (int v = 0; v < vectors; ++v) {
            T* const to = image + offsets[k] + v * lanes;
            write(to, read<Part>(to) + map.weights[k] * gradients[v]);
          }
        }
      }
    });
  });
}

template <int kLanes, typename T>
PROSPR_HD T total(Lanes<T, kLanes> lanes) {
  T sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

template <typename T>
void loop(const SparseConvShape& shape, const std::int64_t* offsets, const std::int32_t* splits,
          const SparseConvFilterGradient<T>& map, std::int64_t begin, std::int64_t end) {
  const Strides strides(shape);
  std::int64_t most = 0;
  for (std::int64_t f = begin; f < end; ++f) {
    most = std::max<std::int64_t>(most, splits[f + 1] - splits[f]);
  }
  AlignedBuffer<Vector<T>> memory(most);
  for (std::int64_t f = begin; f < end; ++f) {
    const std::int64_t count = splits[f + 1] - splits[f];
    T* const weights_gradient = map.weights_gradient + splits[f];
    std::fill(weights_gradient, weights_gradient + count, T{0});
    map.bias_gradient[f] = 0;
    for_samples<T>(0, shape.samples, [&](std::int64_t first, auto lanes, auto vectors) {
      using Part = Lanes<T, lanes>;
      Part* const sums = reinterpret_cast<Part*>(memory.data());
      std::fill(sums, sums + count, Part{});
      Part bias = {};
      for_positions<kColumns>(shape, [&](std::int64_t row, std::int64_t column, auto columns) {
        const T* const output =
            map.output_gradient + strides.output(row, column) + f * shape.samples + first;
        const T* const image = map.image + strides.image(row, column) + first;
        Part gradients[decltype(columns)::value][decltype(vectors)::value];
        for (int c = 0; c < columns; ++c) {
          for (int v = 0; v < vectors; ++v) {
            gradients[c][v] = read<Part>(output + c * strides.output_column + v * lanes);
            bias += gradients[c][v];
          }
        }
        for (std::int64_t k = 0; k < count; ++k) {
          const T* const from = image + offsets[splits[f] + k];
          Part sum[decltype(vectors)::value] = {};
          for (int c = 0; c < columns; ++c) {
            for (int v = 0; v < vectors; ++v) {
              sum[v] += gradients[c][v] * read<Part>(from + c * strides.column + v * lanes);
            }
          }
          for (int v = 0; v < vectors; ++v) sums[k] += sum[v];
        }
      });
      for (std::int64_t k = 0; k < count; ++k) weights_gradient[k] += total<lanes, T>(sums[k]);
      map.bias_gradient[f] += total<lanes, T>(bias);
    });
  }
}

}  // namespace
}  // namespace prospr::cpu::PROSPR_ISA

PROSPR_KERNELS(SparseConvKernel<SparseConv<float>>, loop)
PROSPR_KERNELS(SparseConvKernel<SparseConv<double>>, loop)
PROSPR_KERNELS(SparseConvKernel<SparseConvInputGradient<float>>, loop)
PROSPR_KERNELS(SparseConvKernel<SparseConvInputGradient<double>>, loop)
PROSPR_KERNELS(SparseConvKernel<SparseConvFilterGradient<float>>, loop)
PROSPR_KERNELS(SparseConvKernel<SparseConvFilterGradient<double>>, loop)

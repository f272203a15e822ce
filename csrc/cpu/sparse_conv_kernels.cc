#include "cpu/sparse_conv_kernels.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/aligned_buffer.h"
#include "cpu/block_pixel.h"

namespace prospr::cpu::PROSPR_ISA {
namespace {

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

// Positions whose sums are kept side by side: enough that no addition waits for the one before, as
// far as there are registers.
constexpr int kTile = kVectorBytes / 8;

// What is read of the parts of a group of blocks: where it is, or laid into a frame, zero around
// the image.
template <typename T>
class Source {
 public:
  Source(const Reading& reading, const T* source, std::int64_t parts, Frame<T>* frame)
      : reading_(reading),
        source_(source),
        parts_(parts),
        part_rows_(reading.part_rows(parts)),
        frame_(frame) {}

  // A part of a group, as far as positions up to `last` read it. Its first element is that of the
  // frame's row `first_row(part)`.
  const T* of(std::int64_t group, std::int64_t part, std::int64_t last) {
    const Reading& reading = reading_;
    const T* const from = source_ + group * reading.group * block();
    if (!reading.framed) return from;
    const std::int64_t number = group * parts_ + part;
    if (number != frame_->part) frame_->laid = 0;
    frame_->part = number;
    const std::int64_t first = first_row(part);
    const std::int64_t end = std::min(
        part_rows_, last / reading.row_positions * reading.row_step + reading.span - first);
    if (end > frame_->laid) {
      for (std::int64_t b = 0; b < reading.group_blocks(group); ++b) {
        lay(from + b * block(), frame_->memory.data() + b * reading.strides.block, first, end);
      }
      frame_->laid = end;
    }
    return frame_->memory.data();
  }

  std::int64_t first_row(std::int64_t part) const {
    return reading_.framed ? reading_.position_rows() * part / parts_ * reading_.row_step : 0;
  }

 private:
  std::int64_t block() const {
    return reading_.source[1] * reading_.source[2] * reading_.source[3] * kBlockLanes;
  }

  // Lays the rows of a block that were not, up to `end`, from `first` of all on.
  void lay(const T* source, T* frame, std::int64_t first, std::int64_t end) {
    const Reading& reading = reading_;
    const std::int64_t channels = reading.source[3];
    const Strides& strides = reading.strides;
    const std::int64_t width = std::min(reading.source[2], reading.frame_columns - reading.left);
    const std::int64_t right = reading.left + width;
    for (std::int64_t r = frame_->laid; r < end; ++r) {
      T* const to = frame + r * strides.row;
      const std::int64_t row = first + r - reading.above;
      if (row < 0 || row >= reading.source[1] || width <= 0) {
        std::fill_n(to, strides.row, T{0});
        continue;
      }
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        T* const line = to + channel * strides.channel;
        std::fill_n(line, reading.left * kBlockLanes, T{0});
        std::fill_n(line + right * kBlockLanes, (reading.frame_columns - right) * kBlockLanes,
                    T{0});
      }
      const T* from = source + row * reading.source[2] * channels * kBlockLanes;
      for (std::int64_t column = reading.left; column < right; ++column) {
        T* pixel = to + column * strides.column;
        for (std::int64_t channel = 0; channel < channels; ++channel) {
          write(pixel, read_pixel(from));
          from += kBlockLanes;
          pixel += strides.channel;
        }
      }
    }
  }

  const Reading& reading_;
  const T* source_;
  std::int64_t parts_;
  std::int64_t part_rows_;
  Frame<T>* frame_;
};

// Calls each(first, count, run) for all positions of a part of a group, kTile at once while there
// are so many: of `count` positions each `run` lie side by side, so that one address does for all
// of them.
template <int kRun, typename Each>
PROSPR_HD void for_runs(std::int64_t first, std::int64_t last, Each each) {
  for_tiles<kTile>(first, last, [&](std::int64_t tile, auto count) {
    constexpr int kCount = count;
    each(tile, Constant<kCount>(), Constant < kCount<kRun ? kCount : kRun>());
  });
}

template <typename Each>
PROSPR_HD void for_positions(const Reading& reading, std::int64_t group, std::int64_t parts,
                             std::int64_t part, Each each) {
  const std::int64_t row = reading.row_positions;
  std::int64_t begin = 0;
  std::int64_t end = reading.group_blocks(group) * reading.block_positions;
  if (parts > 1) {
    begin = reading.position_rows() * part / parts * row;
    end = reading.position_rows() * (part + 1) / parts * row;
  }
  if (reading.side_by_side && row >= kTile) {
    for (; begin < end; begin += row) for_runs<kTile>(begin, begin + row, each);
  } else if (reading.side_by_side && row % 4 == 0) {
    for_runs<4>(begin, end, each);
  } else if (reading.side_by_side && row % 2 == 0) {
    for_runs<2>(begin, end, each);
  } else {
    for_runs<1>(begin, end, each);
  }
}

// The addresses of some positions, a run after the other.
template <int kRun, typename T>
PROSPR_HD const T* address(const T* const* runs, int position, std::int64_t offset) {
  return runs[position / kRun] + offset + position % kRun * kBlockLanes;
}

// What comes along with the sums of a row, whose results lie `to` elements from the first row's.
template <int kCount, typename T>
PROSPR_HD void come_along(const SparseProduct<T>& product, std::int64_t row, const std::int64_t* to,
                          Pixel<T>* sums) {
  if (product.scale != nullptr) {
    const T scale = product.scale[row];
    const T bias = product.bias[row];
    for (int p = 0; p < kCount; ++p) {
      for (auto& part : sums[p].parts) part = scale * part + bias;
    }
  }
  if (product.residual != nullptr) {
    for (int p = 0; p < kCount; ++p) {
      add(sums[p], read_pixel(product.residual + to[p] + row * kBlockLanes));
    }
  }
  if (product.relu) {
    const Vector<T> ceiling = Vector<T>{} + product.ceiling;
    for (int p = 0; p < kCount; ++p) {
      for (auto& part : sums[p].parts) {
        part = part < Vector<T>{} ? Vector<T>{} : part;  // a NaN stays
        part = part > ceiling ? ceiling : part;
      }
    }
  }
}

// Sums of each position's products that are kept apart where positions are few, so that no addition
// waits for the one before.
template <int kCount>
constexpr int kChains = kTile / 2 > kCount ? kTile / 2 / kCount : 1;

// Some rows of a sparse matrix at kCount positions, whose results are those from `results` on. What
// is read lies `shift` elements before where the positions have it. Between passes the sums lie in
// `partial`, [end - begin, kCount, kBlockLanes].
template <int kCount, int kRun, typename T>
PROSPR_HD void multiply_tile(const Reading& reading, const SparseProduct<T>& product,
                             const T* source, std::int64_t shift, std::int64_t tile,
                             std::int64_t begin, std::int64_t end, T* partial,
                             std::int64_t results) {
  const std::int64_t* const positions = reading.positions.data() + tile;
  const std::int64_t* const targets = reading.targets.data() + tile;
  const T* runs[kCount / kRun];
  for (int r = 0; r < kCount / kRun; ++r) runs[r] = source + (positions[r * kRun] - shift);
  std::int64_t to[kCount];
  for (int p = 0; p < kCount; ++p) to[p] = (results + targets[p]) * product.rows * kBlockLanes;
  const std::int32_t* const offsets = reading.offsets.data();
  for (std::int64_t pass = 0; pass < reading.passes; ++pass) {
    const std::int32_t* const starts = reading.starts.data() + pass * product.rows;
    T* between = partial;
    for (std::int64_t row = begin; row < end; ++row, between += kCount * kBlockLanes) {
      Pixel<T> sums[kCount];
      if (pass == 0) {
        // Behind a scale it is added last.
        const T bias =
            product.bias == nullptr || product.scale != nullptr ? T{0} : product.bias[row];
        for (auto& sum : sums) {
          for (auto& part : sum.parts) part = Vector<T>{} + bias;
        }
      } else {
        for (int p = 0; p < kCount; ++p) sums[p] = read_pixel(between + p * kBlockLanes);
      }
      const std::int64_t last = starts[row + 1];
      std::int64_t k = starts[row];
      const auto add_weight = [&](Pixel<T>* to_sums, std::int64_t number) {
        const std::int64_t offset = offsets[number];
        const T weight = product.weights[number];
#pragma GCC unroll 8
        for (int p = 0; p < kCount; ++p) {
          add_product(to_sums[p], weight, address<kRun>(runs, p, offset));
        }
      };
      if constexpr (kChains<kCount> > 1) {
        Pixel<T> others[kChains<kCount> - 1][kCount] = {};
        for (; k + kChains<kCount> <= last; k += kChains<kCount>) {
          add_weight(sums, k);
#pragma GCC unroll 4
          for (int i = 1; i < kChains<kCount>; ++i) add_weight(others[i - 1], k + i);
        }
        for (const auto& other : others) {
          for (int p = 0; p < kCount; ++p) add(sums[p], other[p]);
        }
      }
      for (; k < last; ++k) add_weight(sums, k);
      if (pass + 1 == reading.passes) {
        come_along<kCount>(product, row, to, sums);
        for (int p = 0; p < kCount; ++p) write(product.result + to[p] + row * kBlockLanes, sums[p]);
      } else {
        for (int p = 0; p < kCount; ++p) write(between + p * kBlockLanes, sums[p]);
      }
    }
  }
}

template <typename T>
void multiply(const Reading& reading, const SparseProduct<T>& product, Frame<T>* frame,
              std::int64_t begin, std::int64_t end) {
  Source<T> sources(reading, product.source, product.parts, frame);
  const std::int64_t most = (product.rows + product.chunks - 1) / product.chunks;
  AlignedBuffer<T> partial(reading.passes > 1 ? most * kTile * kBlockLanes : 0);
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t group = item / product.chunks / product.parts;
    const std::int64_t part = item / product.chunks % product.parts;
    const std::int64_t chunk = item % product.chunks;
    const std::int64_t first = product.rows * chunk / product.chunks;
    const std::int64_t last = product.rows * (chunk + 1) / product.chunks;
    const std::int64_t results = group * reading.group * reading.block_results;
    const std::int64_t shift = sources.first_row(part) * reading.strides.row;
    for_positions(
        reading, group, product.parts, part, [&](std::int64_t tile, auto count, auto run) {
          multiply_tile<count, run>(reading, product, sources.of(group, part, tile + count - 1),
                                    shift, tile, first, last, partial.data(), results);
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

// Adds to the sums of some filters' weights, pass by pass, what kCount positions add.
template <int kCount, int kRun, typename T>
PROSPR_HD void add_tile(const Reading& reading, std::int64_t filters, const T* source,
                        const std::int64_t* positions, const T* gradient, std::int64_t begin,
                        std::int64_t end, Partial<T>* sums, Partial<T>* biases) {
  const std::int32_t* const offsets = reading.offsets.data();
  const T* runs[kCount / kRun];
  for (int r = 0; r < kCount / kRun; ++r) runs[r] = source + positions[r * kRun];
  for (std::int64_t pass = 0; pass < reading.passes; ++pass) {
    const std::int32_t* const starts = reading.starts.data() + pass * filters;
    for (std::int64_t f = begin; f < end; ++f) {
      Pixel<T> gradients[kCount];
      for (int p = 0; p < kCount; ++p) {
        gradients[p] = read_pixel(gradient + (p * filters + f) * kBlockLanes);
      }
      if (pass == 0) {
        Pixel<T> bias{};
        for (int p = 0; p < kCount; ++p) add(bias, gradients[p]);
        biases[f - begin] += partial<T>(bias);
      }
      for (std::int64_t k = starts[f]; k < starts[f + 1]; ++k) {
        const std::int64_t offset = offsets[k];
        Pixel<T> sum[kCount == 1 ? 1 : 2] =
            {};  // two, so that no addition waits for the one before
#pragma GCC unroll 8
        for (int p = 0; p < kCount; ++p) {
          add_product(sum[kCount == 1 ? 0 : p % 2], gradients[p], address<kRun>(runs, p, offset));
        }
        if constexpr (kCount > 1) add(sum[0], sum[1]);
        *sums++ += partial<T>(sum[0]);
      }
    }
  }
}

template <typename T>
void filter_gradient(const Reading& reading, std::int64_t filters,
                     const SparseConvFilterGradient<T>& map, std::int64_t first, std::int64_t last,
                     std::int64_t begin, std::int64_t end, T* by_weights, T* by_biases) {
  const auto start = [&](std::int64_t pass, std::int64_t f) -> std::int64_t {
    return reading.starts[pass * filters + f];
  };
  std::int64_t weights = 0;
  for (std::int64_t pass = 0; pass < reading.passes; ++pass) {
    weights += start(pass, end) - start(pass, begin);
  }
  AlignedBuffer<Partial<T>> memory(weights + end - begin);
  Partial<T>* const sums = memory.data();
  Partial<T>* const biases = sums + weights;
  std::fill_n(sums, weights + end - begin, Partial<T>{});
  Frame<T> frame(reading.frame_size(1));
  Source<T> sources(reading, map.image, 1, &frame);
  for (std::int64_t group = first; group < last; ++group) {
    const T* const gradient = map.output_gradient + group * reading.group *
                                                        reading.block_positions * filters *
                                                        kBlockLanes;
    for_positions(reading, group, 1, 0, [&](std::int64_t tile, auto count, auto run) {
      add_tile<count, run>(reading, filters, sources.of(group, 0, tile + count - 1),
                           reading.positions.data() + tile, gradient + tile * filters * kBlockLanes,
                           begin, end, sums, biases);
    });
  }
  const Partial<T>* sum = sums;
  for (std::int64_t pass = 0; pass < reading.passes; ++pass) {
    for (std::int64_t k = start(pass, begin); k < start(pass, end); ++k) {
      by_weights[reading.order.empty() ? k : reading.order[k]] = total<T>(*sum++);
    }
  }
  for (std::int64_t f = begin; f < end; ++f) by_biases[f] = total<T>(biases[f - begin]);
}

// Exchanges lanes of vectors with vectors: of each square of 2 kHalf, the corners off the diagonal.
template <typename T, int kHalf, std::size_t... kLane>
PROSPR_HD void exchange(Vector<T>* rows, std::index_sequence<kLane...> lanes) {
  constexpr int kLanes = kVectorLanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kHalf) != 0) continue;
    const Vector<T> one = rows[i];
    const Vector<T> other = rows[i + kHalf];
    rows[i] = __builtin_shufflevector(one, other,
                                      ((kLane & kHalf) != 0 ? kLanes + kLane - kHalf : kLane)...);
    rows[i + kHalf] = __builtin_shufflevector(
        one, other, ((kLane & kHalf) != 0 ? kLanes + kLane : kLane + kHalf)...);
  }
  if constexpr (kHalf > 1) exchange<T, kHalf / 2>(rows, lanes);
}

// Transposes kBlockLanes rows of as many elements, `step` and `to_step` elements apart.
template <typename T>
PROSPR_HD void transpose(const T* from, std::int64_t step, T* to, std::int64_t to_step) {
  constexpr int kLanes = kVectorLanes<T>;
  for (int row = 0; row < kBlockLanes; row += kLanes) {
    for (int column = 0; column < kBlockLanes; column += kLanes) {
      Vector<T> rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) rows[i] = read<Vector<T>>(from + (row + i) * step + column);
      exchange<T, kLanes / 2>(rows, std::make_index_sequence<kLanes>());
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) write(to + (column + i) * to_step + row, rows[i]);
    }
  }
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
                const T* from = map.from + sample * map.size + element;
                if (samples == kBlockLanes && elements == kBlockLanes) {
                  transpose(from, map.size, map.to + blocked, kBlockLanes);
                  return;
                }
                alignas(64) T square[kBlockLanes][kBlockLanes] = {};
                for (std::int64_t s = 0; s < samples; ++s, from += map.size) {
                  for (std::int64_t e = 0; e < elements; ++e) square[e][s] = from[e];
                }
                std::copy_n(square[0], elements * kBlockLanes, map.to + blocked);
              });
}

template <typename T>
void from_blocks(const FromBlocks<T>& map, std::int64_t begin, std::int64_t end) {
  for_squares(map, begin, end,
              [&](std::int64_t sample, std::int64_t samples, std::int64_t element,
                  std::int64_t elements, std::int64_t blocked) {
                T* to = map.to + sample * map.size + element;
                if (samples == kBlockLanes && elements == kBlockLanes) {
                  transpose(map.from + blocked, kBlockLanes, to, map.size);
                  return;
                }
                alignas(64) T square[kBlockLanes][kBlockLanes];
                std::copy_n(map.from + blocked, elements * kBlockLanes, square[0]);
                for (std::int64_t s = 0; s < samples; ++s, to += map.size) {
                  for (std::int64_t e = 0; e < elements; ++e) to[e] = square[e][s];
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

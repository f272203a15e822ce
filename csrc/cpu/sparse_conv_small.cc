#include "cpu/sparse_conv_small.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/sparse_conv_small_kernels.h"

namespace prospr::cpu {
namespace {

// Images of at most so many outputs get a row per element of the filter, in groups of so many
// positions, if that many filters read each element.
constexpr std::int64_t kFewResults = 16;
constexpr std::int64_t kGroupPositions = 64;
constexpr std::int64_t kReaders = 4;
constexpr std::int64_t kMostOffsets = std::numeric_limits<std::int32_t>::max();

std::int64_t rounded_up(std::int64_t size) { return small_chunks(size) * kSmallLanes; }

// Elements of a row of so many positions, as kernels read it.
std::int64_t row_of(std::int64_t positions) {
  if (positions <= 4) return 4;
  return positions <= 8 ? 8 : rounded_up(positions);
}

// Positions of a filter's elements and of outputs.
struct Place {
  std::int64_t row;
  std::int64_t column;
};

// One row per element of the filters: at each position what it reads.
void unroll(const SparseConvShape& shape, SmallPlan* plan, std::vector<std::int64_t>* bases) {
  const Window& window = shape.window;
  const std::int64_t row = row_of(plan->positions);
  const std::int64_t zero = plan->group * plan->pixels;
  for (std::int64_t i = 0; i < window.kernel_height; ++i) {
    for (std::int64_t j = 0; j < window.kernel_width; ++j) {
      bases->push_back(static_cast<std::int64_t>(plan->elements.size()));
      plan->elements.resize(plan->elements.size() + row, static_cast<std::int32_t>(zero));
      std::int32_t* element = plan->elements.data() + bases->back();
      for (std::int64_t image = 0; image < plan->group; ++image) {
        for (std::int64_t r = 0; r < shape.rows(); ++r) {
          for (std::int64_t s = 0; s < shape.columns(); ++s, ++element) {
            const std::int64_t y =
                r * window.stride_height - shape.above() + i * window.dilation_height;
            const std::int64_t x =
                s * window.stride_width - shape.left() + j * window.dilation_width;
            if (y >= 0 && y < shape.height && x >= 0 && x < shape.width) {
              *element = static_cast<std::int32_t>((image * shape.height + y) * shape.width + x);
            }
          }
        }
      }
    }
  }
  for (std::int64_t p = 0; p < plan->positions; ++p) {
    plan->targets.push_back(static_cast<std::int32_t>(p));
  }
}

// A frame of zeros around an image, per phase of the strides that some element reads.
void frame(const SparseConvShape& shape, SmallPlan* plan, std::vector<std::int64_t>* bases) {
  const Window& window = shape.window;
  const std::int64_t rows = shape.rows() + (window.span_height() - 1) / window.stride_height;
  const std::int64_t left = shape.left();
  // What is right of a row's last pixel and left of the next one's first are the same zeros.
  const std::int64_t right = shape.columns() + window.span_width() - 1 - left - shape.width;
  const std::int64_t columns =
      window.stride_width == 1 ? shape.width + std::max(left, right)
                               : shape.columns() + (window.span_width() - 1) / window.stride_width;
  plan->positions = (shape.rows() - 1) * columns + shape.columns();
  const std::int64_t size = rows * columns + (window.stride_width == 1 ? left : 0);
  std::vector<Place> phases;
  for (std::int64_t i = 0; i < window.kernel_height; ++i) {
    for (std::int64_t j = 0; j < window.kernel_width; ++j) {
      const std::int64_t below = i * window.dilation_height;
      const std::int64_t beside = j * window.dilation_width;
      const Place phase{below % window.stride_height, beside % window.stride_width};
      const auto known = std::find_if(phases.begin(), phases.end(), [&](const Place& one) {
        return one.row == phase.row && one.column == phase.column;
      });
      bases->push_back((known - phases.begin()) * size + below / window.stride_height * columns +
                       beside / window.stride_width);
      if (known == phases.end()) phases.push_back(phase);
    }
  }
  plan->elements.assign(phases.size() * size, static_cast<std::int32_t>(plan->pixels));
  std::int32_t* of_phase = plan->elements.data();
  for (const Place& phase : phases) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t y = phase.row + r * window.stride_height - shape.above();
      if (y < 0 || y >= shape.height) continue;
      for (std::int64_t s = 0; s < columns; ++s) {
        const std::int64_t x = phase.column + s * window.stride_width - left;
        if (x < 0 || x >= shape.width) continue;
        of_phase[r * columns + s] = static_cast<std::int32_t>(y * shape.width + x);
      }
    }
    of_phase += size;
  }
  for (std::int64_t p = 0; p < plan->positions; ++p) {
    const std::int64_t s = p % columns;
    plan->targets.push_back(
        s < shape.columns() ? static_cast<std::int32_t>(p / columns * shape.columns() + s) : -1);
  }
}

SmallPlan small_plan_of(const SparseConvShape& shape, const SparsePattern& pattern) {
  const Window& window = shape.window;
  const std::int64_t taps = window.kernel_height * window.kernel_width;
  const std::int64_t pixels = shape.height * shape.width;
  SmallPlan plan{};
  plan.samples = shape.blocks;
  plan.pixels = pixels;
  plan.channels = shape.channels;
  plan.filters = shape.filters;
  plan.group = 1;
  plan.results = shape.rows() * shape.columns();
  std::vector<std::int64_t> bases;
  plan.direct = taps == 1 && plan.results == pixels &&
                rounded_up(shape.blocks * pixels + kSmallLanes) <=
                    kMostOffsets / std::max<std::int64_t>(1, shape.channels);
  if (plan.direct) {  // all pixels are alike
    plan.samples = 1;
    plan.pixels = plan.results = plan.positions = shape.blocks * pixels;
    plan.in_place = plan.pixels == 1;
    bases.push_back(0);
    plan.stride = plan.in_place ? 1 : rounded_up(plan.pixels);
    for (std::int64_t p = 0; p < plan.positions; ++p) {
      plan.targets.push_back(static_cast<std::int32_t>(p));
    }
  } else {
    const std::int64_t group =
        std::min(shape.blocks, std::max<std::int64_t>(1, kGroupPositions / plan.results));
    const std::int64_t unrolled = taps * rounded_up(group * plan.results) * shape.channels;
    if (plan.results <= kFewResults && unrolled < kMostOffsets / 2 &&
        group * pixels < kMostOffsets / kSmallLanes &&
        shape.weights >= kReaders * taps * shape.channels) {
      const std::int64_t groups = (shape.blocks + group - 1) / group;
      plan.group = (shape.blocks + groups - 1) / groups;
      plan.positions = plan.group * plan.results;
      unroll(shape, &plan, &bases);
      plan.stride = static_cast<std::int64_t>(plan.elements.size());
    } else {
      frame(shape, &plan, &bases);
      plan.stride = rounded_up(static_cast<std::int64_t>(plan.elements.size()));
    }
  }
  // Channels whose distance is a power of two would lie in a few sets of the first-level cache.
  if (!plan.in_place && plan.stride % (8 * kSmallLanes) == 0) plan.stride += row_of(plan.positions);
  plan.tile = 1;
  if (plan.positions > 1) {
    const std::int64_t tiles = (plan.positions + kSmallTile - 1) / kSmallTile;
    plan.tile = rounded_up((plan.positions + tiles - 1) / tiles);
  }
  plan.unit = plan.stride;
  for (const std::int64_t base : bases) plan.unit = std::gcd(plan.unit, base);
  const bool is_short = shape.channels * plan.stride / plan.unit <= 1 << 16;
  is_short ? plan.short_offsets.reserve(shape.weights) : plan.offsets.reserve(shape.weights);
  for (std::int64_t k = 0; k < shape.weights; ++k) {
    const std::int64_t tap = pattern.taps[k];
    const std::int64_t offset =
        (bases[tap / shape.channels] + tap % shape.channels * plan.stride) / plan.unit;
    if (is_short) {
      plan.short_offsets.push_back(static_cast<std::uint16_t>(offset));
    } else {
      plan.offsets.push_back(static_cast<std::int32_t>(offset));
    }
  }
  plan.splits.assign(pattern.splits, pattern.splits + shape.filters + 1);
  return plan;
}

// Rough nanoseconds of laying an element, and of a vector's part in a sum.
constexpr double kLay = 0.3;
constexpr double kProduct = 0.4;

}  // namespace

template <typename T>
void run(const SparseConvShape& shape, const SparseConvSmall<T>& map, SharedSmallPlan* plan,
         InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (shape.blocks == 0 || shape.filters == 0) return;
  if (*plan == nullptr) {
    *plan = std::make_shared<const SmallPlan>(small_plan_of(shape, map.pattern));
  }
  const SmallPlan& of = **plan;
  const auto kernels = dispatch<SmallKernels<T>>(instruction_set);
  AlignedBuffer<T> memory(of.in_place ? 0 : of.groups() * of.group_size());
  const T* scratch = map.image;
  if (!of.in_place) {
    scratch = memory.data();
    if (of.channels > 0)
      parallel_for(of.groups() * small_chunks(of.channels),
                   kLay * static_cast<double>(kSmallLanes * of.stride),
                   [&](std::int64_t begin, std::int64_t end) {
                     kernels.lay(of, map.image, memory.data(), begin, end);
                   });
  }
  const std::int64_t chunks = small_chunks(of.filters);
  const double vectors =
      static_cast<double>(of.tile == 1 ? kSmallLanes : of.tile) / static_cast<double>(kSmallLanes);
  parallel_for(of.groups() * of.tiles() * chunks,
               kProduct * vectors * static_cast<double>(shape.weights + of.filters * 16) /
                   static_cast<double>(chunks),
               [&](std::int64_t begin, std::int64_t end) {
                 kernels.multiply(of, map, scratch, begin, end);
               });
}

template void run(const SparseConvShape&, const SparseConvSmall<float>&, SharedSmallPlan*,
                  InstructionSet, const ParallelFor&);
template void run(const SparseConvShape&, const SparseConvSmall<double>&, SharedSmallPlan*,
                  InstructionSet, const ParallelFor&);

}  // namespace prospr::cpu

#include "cpu/sparse_conv.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cpu/sparse_conv_kernels.h"
#include "cpu/sparse_plan.h"

namespace prospr::cpu {
namespace {

// Products that a thread adds up per nanosecond, and bytes that it moves.
constexpr double kSpeed = 16;
constexpr double kBytes = 4;
// Items that a product is cut into at least, if its positions and rows are enough.
constexpr std::int64_t kItems = 16;
// Rows of positions, and positions, that an item has at least: what lies around them is laid for it
// too.
constexpr std::int64_t kItemRows = 4;
constexpr std::int64_t kItemPositions = 8;
// Nanoseconds of reading a number from anywhere.
constexpr double kGather = 2;

double products_of(const Reading& reading) {
  return static_cast<double>(reading.offsets.size() + 1) *
         static_cast<double>(reading.block_positions * reading.source[0] * kBlockLanes);
}

// Calls one(i) for each of [0, count).
template <typename One>
void for_each(std::int64_t count, const ParallelFor& parallel_for, const One& one) {
  if (count == 0) return;
  parallel_for(count, kGather, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) one(i);
  });
}

// Weights in the order of a reading; where they are, if that is theirs.
template <typename T>
const T* in_order(const T* weights, const std::vector<std::int32_t>& which, std::vector<T>* memory,
                  const ParallelFor& parallel_for) {
  if (which.empty()) return weights;
  memory->resize(which.size());
  for_each(static_cast<std::int64_t>(which.size()), parallel_for,
           [&](std::int64_t k) { (*memory)[k] = weights[which[k]]; });
  return memory->data();
}

// Frames of one size that threads hand on to each other.
template <typename T>
class Frames {
 public:
  explicit Frames(std::int64_t size) : size_(size) {}

  // The one that was given back last, or a new one.
  std::unique_ptr<Frame<T>> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Frame<T>>(size_);
    auto frame = std::move(free_.back());
    free_.pop_back();
    return frame;
  }

  void give_back(std::unique_ptr<Frame<T>> frame) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(frame));
  }

 private:
  std::int64_t size_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Frame<T>>> free_;
};

template <typename T>
void multiply(const Reading& reading, SparseProduct<T> product, InstructionSet instruction_set,
              const ParallelFor& parallel_for) {
  const auto shared = [](std::int64_t pieces, std::int64_t most) {
    return std::max<std::int64_t>(1, std::min((kItems + pieces - 1) / pieces, most));
  };
  const std::int64_t groups = reading.groups();
  const std::int64_t rows = reading.position_rows();
  const std::int64_t rows_of_item = std::max(reading.span > reading.row_step ? kItemRows : 1,
                                             kItemPositions / reading.row_positions);
  product.parts = shared(groups, rows / rows_of_item);
  product.chunks = shared(groups * product.parts, product.rows);
  const std::int64_t items = groups * product.parts * product.chunks;
  const auto kernel = dispatch<SparseProductKernel<T>>(instruction_set);
  Frames<T> frames(reading.frame_size(product.parts));
  parallel_for(items, std::max(1.0, products_of(reading) / kSpeed / static_cast<double>(items)),
               [&](std::int64_t begin, std::int64_t end) {
                 auto frame = frames.take();
                 kernel(reading, product, frame.get(), begin, end);
                 frames.give_back(std::move(frame));
               });
}

// Numbers of the filters, once for each copy of them.
template <typename T>
const T* for_copies(const SparsePlan& plan, const T* numbers, std::vector<T>* memory) {
  if (plan.copies == 1 || numbers == nullptr) return numbers;
  for (std::int64_t copy = 0; copy < plan.copies; ++copy) {
    memory->insert(memory->end(), numbers, numbers + plan.shape.filters / plan.copies);
  }
  return memory->data();
}

template <typename T>
void run_map(const SparsePlan& plan, const SparseConv<T>& map, InstructionSet instruction_set,
             const ParallelFor& parallel_for) {
  std::vector<T> memory;
  const T* const weights = in_order(map.weights, plan.weights[0], &memory, parallel_for);
  std::vector<T> biases;
  std::vector<T> scales;
  const T* const bias = for_copies(plan, map.bias, &biases);
  const T* const scale = for_copies(plan, map.scale, &scales);
  multiply<T>(plan.readings[0],
              {plan.shape.filters, 1, 1, map.image, weights, bias, map.output, scale, map.residual,
               map.relu, map.ceiling},
              instruction_set, parallel_for);
}

template <typename T>
void run_map(const SparsePlan& plan, const SparseConvInputGradient<T>& map,
             InstructionSet instruction_set, const ParallelFor& parallel_for) {
  std::vector<T> memory;
  for (std::size_t i = 0; i < plan.readings.size(); ++i) {
    const T* const weights = in_order(map.weights, plan.weights[i], &memory, parallel_for);
    multiply<T>(plan.readings[i],
                {plan.shape.channels, 1, 1, map.output_gradient, weights, nullptr,
                 map.image_gradient, nullptr, nullptr, false, T{0}},
                instruction_set, parallel_for);
  }
}

// Parts of [0, groups) that are summed on their own. They are part of the definition of the result,
// so they do not depend on the number of threads. One, where adding up the parts' sums would cost
// more than reading all images for each part of the filters.
std::int64_t parts_of(const SparseConvShape& shape, const Reading& reading) {
  const double image = static_cast<double>(shape.height) * static_cast<double>(shape.width) *
                       static_cast<double>(shape.channels) * kBlockLanes;
  const double sums = static_cast<double>(shape.weights + shape.filters);
  const double most = image * static_cast<double>(shape.blocks) / std::max(1.0, 2 * sums);
  return std::max<std::int64_t>(
      1, std::min({reading.groups(), kItems / 2, static_cast<std::int64_t>(most)}));
}

template <typename T>
void add_up(const SparsePlan& plan, const SparseConvFilterGradient<T>& map,
            InstructionSet instruction_set, const ParallelFor& parallel_for) {
  const SparseConvShape& shape = plan.shape;
  const Reading& reading = plan.readings[0];
  const std::int64_t groups = reading.groups();
  const std::int64_t parts = parts_of(shape, reading);
  const std::int64_t chunks = std::min(shape.filters, kItems / parts);
  const std::int64_t size = shape.weights + shape.filters;
  // The first part's sums lie in the result.
  std::vector<T> sums((parts - 1) * size);
  const auto kernel = dispatch<SparseFilterGradientKernel<T>>(instruction_set);
  const std::int64_t items = parts * chunks;
  parallel_for(items, std::max(1.0, products_of(reading) / kSpeed / static_cast<double>(items)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t item = begin; item < end;) {
                   // The chunks of a part together, so that an image is laid once.
                   const std::int64_t part = item / chunks;
                   const std::int64_t next = std::min(end, (part + 1) * chunks);
                   T* by_weights = map.weights_gradient;
                   T* by_biases = map.bias_gradient;
                   if (part > 0) {
                     by_weights = sums.data() + (part - 1) * size;
                     by_biases = by_weights + shape.weights;
                   }
                   kernel(reading, shape.filters, map, groups * part / parts,
                          groups * (part + 1) / parts,
                          shape.filters * (item - part * chunks) / chunks,
                          shape.filters * (next - part * chunks) / chunks, by_weights, by_biases);
                   item = next;
                 }
               });
  for (std::int64_t part = 1; part < parts; ++part) {
    const T* const from = sums.data() + (part - 1) * size;
    for (std::int64_t k = 0; k < shape.weights; ++k) map.weights_gradient[k] += from[k];
    for (std::int64_t f = 0; f < shape.filters; ++f) {
      map.bias_gradient[f] += from[shape.weights + f];
    }
  }
}

template <typename T>
void run_map(const SparsePlan& plan, const SparseConvFilterGradient<T>& map,
             InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (plan.uses_splits.empty()) {
    add_up(plan, map, instruction_set, parallel_for);
    return;
  }
  // The sums of all uses of a weight, and of all rows of a filter.
  std::vector<T> by_uses(plan.shape.weights);
  std::vector<T> by_rows(plan.shape.filters);
  SparseConvFilterGradient<T> whole = map;
  whole.weights_gradient = by_uses.data();
  whole.bias_gradient = by_rows.data();
  add_up(plan, whole, instruction_set, parallel_for);
  const auto weights = static_cast<std::int64_t>(plan.uses_splits.size()) - 1;
  for_each(weights, parallel_for, [&](std::int64_t k) {
    T sum = 0;
    for (std::int32_t use = plan.uses_splits[k]; use < plan.uses_splits[k + 1]; ++use) {
      sum += by_uses[plan.uses[use]];
    }
    map.weights_gradient[k] = sum;
  });
  const std::int64_t filters = plan.shape.filters / plan.copies;
  for (std::int64_t f = 0; f < filters; ++f) {
    T sum = 0;
    for (std::int64_t copy = 0; copy < plan.copies; ++copy) sum += by_rows[copy * filters + f];
    map.bias_gradient[f] = sum;
  }
}

// Whether there is nothing to compute; what is written is then zero. Other sizes may be anything.
template <typename T>
bool done(const SparseConvShape& shape, const SparseConv<T>&) {
  return shape.blocks == 0 || shape.filters == 0;
}
template <typename T>
bool done(const SparseConvShape& shape, const SparseConvInputGradient<T>&) {
  return shape.blocks == 0 || shape.channels == 0;
}
template <typename T>
bool done(const SparseConvShape& shape, const SparseConvFilterGradient<T>& map) {
  if (shape.blocks == 0) {
    std::fill_n(map.weights_gradient, shape.weights, T{0});
    std::fill_n(map.bias_gradient, shape.filters, T{0});
  }
  return shape.blocks == 0 || shape.filters == 0;
}

}  // namespace

template <typename Map>
void run(const SparseConvShape& shape, const Map& map, Plan* plan, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  if (done(shape, map)) return;
  if (*plan == nullptr) {
    *plan = std::make_shared<const SparsePlan>(
        plan_of(shape, map.pattern, sizeof(typename Map::Element)));
  }
  run_map(**plan, map, instruction_set, parallel_for);
}

template <typename Map>
void run(const SparseConvShape& shape, const Map& map, InstructionSet instruction_set,
         const ParallelFor& parallel_for) {
  Plan plan;
  run(shape, map, &plan, instruction_set, parallel_for);
}

template <typename Map>
void run(const Map& map, InstructionSet instruction_set, const ParallelFor& parallel_for) {
  if (map.size == 0 || map.samples == 0) return;
  const auto kernel = dispatch<BlocksKernel<Map>>(instruction_set);
  // A block is cut along its elements too, for small batches.
  const std::int64_t columns = (map.size + kBlockLanes - 1) / kBlockLanes;
  parallel_for(blocks_of(map.samples) * columns,
               static_cast<double>(kBlockLanes * kBlockLanes * sizeof(*map.from)) / kBytes,
               [&](std::int64_t begin, std::int64_t end) { kernel(map, begin, end); });
}

#define INSTANTIATE(Map)                                                                     \
  template void run(const SparseConvShape&, const Map&, InstructionSet, const ParallelFor&); \
  template void run(const SparseConvShape&, const Map&, Plan*, InstructionSet, const ParallelFor&)
INSTANTIATE(SparseConv<float>);
INSTANTIATE(SparseConv<double>);
INSTANTIATE(SparseConvInputGradient<float>);
INSTANTIATE(SparseConvInputGradient<double>);
INSTANTIATE(SparseConvFilterGradient<float>);
INSTANTIATE(SparseConvFilterGradient<double>);
#undef INSTANTIATE
#define INSTANTIATE(Map) template void run(const Map&, InstructionSet, const ParallelFor&)
INSTANTIATE(ToBlocks<float>);
INSTANTIATE(ToBlocks<double>);
INSTANTIATE(FromBlocks<float>);
INSTANTIATE(FromBlocks<double>);
#undef INSTANTIATE

}  // namespace prospr::cpu

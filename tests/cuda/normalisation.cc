// Batch normalisation against the CPU's kernels.
#include "cuda/normalisation.h"

#include <utility>

#include "cpu/normalisation.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

template <typename T>
struct Problem {
  Problem(const BatchShape& shape, std::int64_t offset)
      : random(static_cast<unsigned>(shape.rows)), moments(2 * shape.channels) {
    const std::int64_t size = shape.rows * shape.channels;
    for (int i = 0; i < 3; ++i) tensors.push_back(random.normal<T>(size, 1, offset));
    for (int i = 0; i < 4; ++i) vectors.push_back(random.normal<T>(shape.channels, 1, offset));
    for (std::int64_t i = 0; i < size; ++i) tensors[0][i] += 100;
    Array<T> unused(2 * shape.channels);
    cpu::run(shape,
             BatchMoments<T>{tensors[0].data(), unused.data(), unused.data() + shape.channels,
                             moments.data()},
             kBaseline, kOneThread);
  }

  Random random;
  std::vector<Array<T>> tensors;  // x, the gradient at y, u
  std::vector<Array<T>> vectors;  // scale, offset, u_scale, u_offset
  Array<double> moments;
};

constexpr double kEpsilon = 1e-2;

// `largest` is that of terms which cancel, if it is more than that of what is wanted.
template <typename T>
void expect_near(const Array<T>& got, const Array<T>& wanted, const std::string& what,
                 double largest = 1) {
  for (std::int64_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(wanted[i])));
  }
  const double tolerance = largest * (sizeof(T) == 4 ? 1e-6 : 1e-12);
  for (std::int64_t i = 0; i < wanted.size(); ++i) {
    if (std::abs(static_cast<double>(got[i]) - static_cast<double>(wanted[i])) <= tolerance) {
      continue;
    }
    expect(false, what + ", element " + std::to_string(i) + ": " + std::to_string(got[i]) +
                      ", not " + std::to_string(wanted[i]));
    return;
  }
}

// `arguments(results)` are those that write to `results`, arrays of the given sizes.
template <typename T, typename Arguments>
void compare(const BatchShape& shape, const std::vector<std::int64_t>& sizes, std::int64_t offset,
             const Arguments& arguments, const std::string& what) {
  const auto empty = [&] {
    std::vector<Array<T>> results;
    for (const std::int64_t size : sizes) {
      results.emplace_back(size, offset);
      std::fill_n(results.back().data(), size, std::numeric_limits<T>::quiet_NaN());
    }
    return results;
  };
  std::vector<Array<T>> wanted = empty();
  cpu::run(shape, arguments(wanted), kBaseline, kOneThread);
  const auto got = in_both_orders(
      [&] {
        std::vector<Array<T>> results = empty();
        const auto given = arguments(results);
        Array<double> scratch((cuda::scratch_bytes(shape, given) + 7) / 8);
        const std::string wrong = cuda::run(shape, given, scratch.data(), nullptr);
        expect(wrong.empty(), what + ": " + wrong);
        return results;
      },
      what);
  for (std::size_t i = 0; i < got.size(); ++i) {
    // Of one row all is zero but for roundings, of terms that have the variance's place: epsilon.
    expect_near(got[i], wanted[i], what + ", result " + std::to_string(i),
                shape.rows == 1 ? 1 / kEpsilon : 1);
  }
}

template <typename T>
void test_shape(const BatchShape& shape, std::int64_t offset) {
  const std::string what = (sizeof(T) == 4 ? " of float, " : " of double, ") +
                           std::to_string(shape.rows) + " rows, " + std::to_string(shape.channels) +
                           " channels";
  const Problem<T> p(shape, offset);
  const std::int64_t channels = shape.channels;
  const std::int64_t size = shape.rows * channels;
  using Arrays = std::vector<Array<T>>;

  std::vector<Array<double>> both;
  compare<T>(
      shape, {channels, channels}, offset,
      [&](Arrays& to) {
        both.emplace_back(2 * channels);
        return BatchMoments<T>{p.tensors[0].data(), to[0].data(), to[1].data(), both.back().data()};
      },
      "batch_moments" + what);
  expect(both.size() == 3, "batch_moments ran on the CPU and twice on the GPU");
  expect_near(both[1], both[0], "batch_moments" + what + ", in double");
  expect_same_bits(both[2], both[1], "batch_moments" + what + ", in double");

  compare<T>(
      shape, {size}, offset,
      [&](Arrays& to) {
        return BatchNorm<T>{
            kEpsilon,         p.tensors[0].data(), p.vectors[0].data(), p.vectors[1].data(),
            p.moments.data(), to[0].data()};
      },
      "batch_norm" + what);
  compare<T>(
      shape, {size, channels, channels}, offset,
      [&](Arrays& to) {
        return BatchNormGradient<T>{
            kEpsilon,         p.tensors[1].data(), p.tensors[0].data(), p.vectors[0].data(),
            p.moments.data(), to[0].data(),        to[1].data(),        to[2].data()};
      },
      "batch_norm_gradient" + what);
  compare<T>(
      shape, {size, size, channels}, offset,
      [&](Arrays& to) {
        return BatchNormSecondGradient<T>{kEpsilon,
                                          p.tensors[2].data(),
                                          p.vectors[2].data(),
                                          p.vectors[3].data(),
                                          p.tensors[1].data(),
                                          p.tensors[0].data(),
                                          p.vectors[0].data(),
                                          p.moments.data(),
                                          to[0].data(),
                                          to[1].data(),
                                          to[2].data()};
      },
      "batch_norm_second_gradient" + what);
}

}  // namespace

void test_normalisation() {
  // One row, one channel, rows that are taken several at a time with some left over, several
  // slices, and channels that fill no whole block.
  for (const auto& [rows, channels] : {std::pair<int, int>{1, 1},
                                       {2, 1},
                                       {1, 67},
                                       {9001, 1},
                                       {35, 3},
                                       {2100, 20},
                                       {150, 130},
                                       {7, 300}}) {
    test_shape<float>({rows, channels}, 0);
    test_shape<double>({rows, channels}, 1);
  }
}

}  // namespace prospr::tests

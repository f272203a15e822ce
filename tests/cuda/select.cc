// The selection against the CPU's, mask for mask.
#include "cuda/select.h"

#include "cpu/select.h"
#include "emulated.h"

namespace prospr::tests {
namespace {

template <typename T>
struct Case {
  std::vector<Array<T>> scores;
  std::int64_t keep;
  std::int64_t min_keep;
  bool packed;
  std::int64_t mask_offset = 0;
};

// Both runs' masks; memory that nobody wrote to is no mask.
template <typename T>
std::vector<Array<std::uint8_t>> masks_for(const Case<T>& c, Selection<T>* selection) {
  std::vector<Array<std::uint8_t>> masks;
  for (const Array<T>& scores : c.scores) {
    masks.emplace_back(c.packed ? (scores.size() + 7) / 8 : scores.size(), c.mask_offset);
    for (std::int64_t i = 0; i < masks.back().size(); ++i) masks.back()[i] = 0xAA;
  }
  *selection = {{}, c.keep, c.min_keep, c.packed};
  for (std::size_t i = 0; i < masks.size(); ++i) {
    selection->tensors.push_back({c.scores[i].data(), c.scores[i].size(), masks[i].data()});
  }
  return masks;
}

template <typename T>
void test_case(const Case<T>& c, const std::string& what) {
  Selection<T> selection;
  const auto on_cpu = masks_for(c, &selection);
  std::vector<std::int64_t> sizes;
  for (const Array<T>& scores : c.scores) sizes.push_back(scores.size());
  expect(check_selection(sizes, c.keep, c.min_keep).empty(), what + ": accepted");
  const std::string wanted = cpu::run(selection, kBaseline, kOneThread);
  const auto on_gpu = in_both_orders(
      [&] {
        const auto masks = masks_for(c, &selection);
        Array<unsigned char> scratch(cuda::scratch_bytes(selection));
        std::string failure;
        const std::string wrong = cuda::run(selection, scratch.data(), nullptr, &failure);
        expect(failure.empty(), failure);
        expect(wrong == wanted, what + ": '" + wrong + "', not '" + wanted + "'");
        return masks;
      },
      what);
  if (!wanted.empty()) return;
  for (std::size_t i = 0; i < on_cpu.size(); ++i) {
    expect_same_bits(on_gpu[i], on_cpu[i], what + ", mask " + std::to_string(i));
  }
}

// Whole chunks and a part of one, of any type; few values, so that ties are split within a
// chunk. Scores and masks on a boundary of 16 bytes and beside one.
template <typename T>
void test_chunks(const std::string& name) {
  constexpr std::int64_t kSize = 9219;
  Random random(6);
  for (const std::int64_t offset : {0, 1}) {
    Case<T> c{{}, 0, 0, false, offset};
    c.scores.push_back(random.normal<T>(kSize, 3, offset));
    for (std::int64_t i = 0; i < kSize; i += 2) c.scores[0][i] = c.scores[0][random.below(9)];
    for (const std::int64_t keep : {3000, 8700}) {
      for (const bool packed : {false, true}) {
        c.keep = keep;
        c.packed = packed;
        test_case(c, name + ", chunks, keep " + std::to_string(keep) + (packed ? ", packed" : "") +
                         ", offset " + std::to_string(offset));
      }
    }
  }
}

template <typename T>
void test_type(const std::string& name) {
  Random random(4);
  std::vector<Array<T>> scores;
  for (const std::int64_t size : {1, 70, 1000}) scores.push_back(random.normal<T>(size, 3));
  // Ties, over tensors too.
  for (std::int64_t i = 0; i < 600; ++i) scores[2][i] = scores[1][random.below(3)];
  test_case<T>({scores, 300, 0, false}, name);
  test_case<T>({scores, 300, 0, true}, name + ", packed");
  test_case<T>({scores, 100, 40, true}, name + ", at least 40 of each");
  test_chunks<T>(name);
}

}  // namespace

void test_select() {
  test_type<float>("float");
  test_type<double>("double");
  test_type<core::Half>("half");
  test_type<core::BFloat16>("bfloat16");

  Random random(5);
  std::vector<Array<float>> scores{random.normal<float>(50), random.normal<float>(50)};
  for (const std::int64_t keep : {0, 1, 100}) {
    test_case<float>({scores, keep, 0, false}, "keep " + std::to_string(keep));
  }
  scores[0][3] = -std::numeric_limits<float>::infinity();
  scores[0][4] = -0.0f;
  scores[0][5] = 0.0f;
  test_case<float>({scores, 99, 0, false}, "all but infinity");
  scores[1][7] = std::numeric_limits<float>::quiet_NaN();
  test_case<float>({scores, 10, 0, false}, "NaN");
  scores[0][8] = -std::numeric_limits<float>::quiet_NaN();
  test_case<float>({scores, 10, 0, false}, "NaN in both");
  // More than a chunk of equal scores.
  test_case<float>({{Array<float>(33000)}, 32900, 0, true}, "all equal");
  // More tensors than the arguments of a launch hold.
  std::vector<Array<double>> many;
  for (std::int64_t i = 0; i < 131; ++i) many.push_back(random.normal<double>(1 + i % 5));
  test_case<double>({many, 200, 1, false}, "many tensors");
  many[100][0] = std::numeric_limits<double>::quiet_NaN();
  test_case<double>({many, 200, 1, false}, "NaN in one of many tensors");
}

}  // namespace prospr::tests

#include "cpu/select.h"

#include <pybind11/stl.h>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

template <typename T>
std::vector<py::array> select(const std::vector<Array<T>>& scores, std::int64_t keep,
                              std::int64_t min_keep, bool packed, int threads,
                              const std::string& instruction_set) {
  Shape sizes;
  for (const Array<T>& array : scores) {
    const Shape shape = shape_of("scores", array);
    sizes.push_back(product(shape.begin(), shape.end()));
  }
  raise_if(check_selection(sizes, keep, min_keep));

  std::vector<py::array> masks;
  Selection<T> selection{{}, keep, min_keep, packed};
  for (const Array<T>& array : scores) {
    const std::int64_t size = array.size();
    if (packed) {
      masks.emplace_back(Array<std::uint8_t>((size + 7) / 8));
    } else {
      masks.emplace_back(
          Array<bool>(py::array::ShapeContainer(array.shape(), array.shape() + array.ndim())));
    }
    selection.tensors.push_back(
        {array.data(), size, static_cast<std::uint8_t*>(masks.back().mutable_data())});
  }
  raise_if(cpu::run(selection, instruction_set_or_best(instruction_set), split_into(threads)));
  return masks;
}

}  // namespace

void define_select(py::module_& module) {
  using namespace py::literals;
  const auto define = [&module](auto function) {
    module.def("select", function, "scores"_a.noconvert(), "keep"_a, "min_keep"_a = 0,
               "packed"_a = false, "threads"_a = 1, "instruction_set"_a = "");
  };
  define(&select<float>);
  define(&select<double>);
}

}  // namespace prospr::bindings

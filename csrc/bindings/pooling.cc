#include "cpu/pooling.h"

#include <stdexcept>

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Positions = Array<std::uint8_t>;
using Extents = std::vector<py::ssize_t>;

// The windows of images of a shape, checked.
cpu::Windows windows_of(const Extents& image, const Pair& window) {
  const cpu::Windows windows{image[0], image[1], image[2], image[3], window.first, window.second};
  const std::string wrong = cpu::check(windows);
  if (!wrong.empty()) throw std::invalid_argument(wrong);
  return windows;
}

Extents extents(const char* name, const py::array& array) {
  check_aligned(name, array);
  if (array.ndim() != 4) {
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) +
                                "; it must have four axes");
  }
  return {array.shape(), array.shape() + 4};
}

Extents extents(const cpu::Windows& windows) {
  return {windows.samples, windows.rows(), windows.columns(), windows.channels};
}

void check_fits(const char* name, const py::array& array, const cpu::Windows& windows) {
  if (extents(name, array) != extents(windows)) {
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(array) +
                                ", which is not that of the windows");
  }
}

template <typename T>
std::pair<Array<T>, Positions> max_pool(const Array<T>& image, const Pair& window, int threads,
                                        const std::string& instruction_set) {
  const cpu::Windows windows = windows_of(extents("image", image), window);
  Array<T> maxima(extents(windows));
  Positions positions(extents(windows));
  cpu::run(windows, cpu::MaxPool<T>{image.data(), maxima.mutable_data(), positions.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return {maxima, positions};
}

template <typename T>
Array<T> max_unpool(const Array<T>& values, const Positions& positions, const Pair& window,
                    const Pair& size, int threads, const std::string& instruction_set) {
  const Extents given = extents("values", values);
  const Extents shape{given[0], size.first, size.second, given[3]};
  const cpu::Windows windows = windows_of(shape, window);
  check_fits("values", values, windows);
  check_fits("positions", positions, windows);
  Array<T> image(shape);
  cpu::run(windows, cpu::MaxUnpool<T>{values.data(), positions.data(), image.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return image;
}

template <typename T>
Array<T> gather_pooled(const Array<T>& image, const Positions& positions, const Pair& window,
                       int threads, const std::string& instruction_set) {
  const cpu::Windows windows = windows_of(extents("image", image), window);
  check_fits("positions", positions, windows);
  Array<T> values(extents(windows));
  cpu::run(windows, cpu::GatherPooled<T>{image.data(), positions.data(), values.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return values;
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("max_pool", &max_pool<T>, "image"_a.noconvert(), "window"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("max_unpool", &max_unpool<T>, "values"_a.noconvert(), "positions"_a.noconvert(),
             "window"_a, "size"_a, "threads"_a = 1, "instruction_set"_a = "");
  module.def("gather_pooled", &gather_pooled<T>, "image"_a.noconvert(), "positions"_a.noconvert(),
             "window"_a, "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_pooling(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings

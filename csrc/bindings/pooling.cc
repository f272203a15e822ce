#include "cpu/pooling.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;
using Positions = Array<std::uint8_t>;

Windows windows_of(const Shape& image, const Pair& window) {
  Windows windows;
  raise_if(check_image(image, window.first, window.second, &windows));
  return windows;
}

void check_pooled(const char* name, const py::array& array, const Windows& windows) {
  raise_if(check_shape(name, shape_of(name, array), windows.pooled()));
}

template <typename T>
std::pair<Array<T>, Positions> max_pool(const Array<T>& image, const Pair& window, int threads,
                                        const std::string& instruction_set) {
  const Windows windows = windows_of(shape_of("image", image), window);
  Array<T> maxima(windows.pooled());
  Positions positions(windows.pooled());
  cpu::run(windows, MaxPool<T>{image.data(), maxima.mutable_data(), positions.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return {maxima, positions};
}

template <typename T>
Array<T> max_unpool(const Array<T>& values, const Positions& positions, const Pair& window,
                    const Pair& size, int threads, const std::string& instruction_set) {
  const Shape given = shape_of("values", values);
  raise_if(check_axes("values", given, 4));
  const Shape shape{given[0], size.first, size.second, given[3]};
  const Windows windows = windows_of(shape, window);
  check_pooled("values", values, windows);
  check_pooled("positions", positions, windows);
  Array<T> image(shape);
  cpu::run(windows, MaxUnpool<T>{values.data(), positions.data(), image.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return image;
}

template <typename T>
Array<T> gather_pooled(const Array<T>& image, const Positions& positions, const Pair& window,
                       int threads, const std::string& instruction_set) {
  const Windows windows = windows_of(shape_of("image", image), window);
  check_pooled("positions", positions, windows);
  Array<T> values(windows.pooled());
  cpu::run(windows, GatherPooled<T>{image.data(), positions.data(), values.mutable_data()},
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

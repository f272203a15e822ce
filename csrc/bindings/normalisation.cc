#include "cpu/normalisation.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

template <typename T>
using Named = std::vector<std::pair<const char*, const Array<T>*>>;

template <typename T>
BatchShape checked_batch(const Named<T>& tensors, const Named<T>& per_channel,
                         const Array<double>* moments) {
  const auto shapes = [](const Named<T>& arrays) {
    std::vector<NamedShape> result;
    for (const auto& [name, array] : arrays) result.push_back({name, shape_of(name, *array)});
    return result;
  };
  BatchShape shape{};
  const Shape of_moments = moments == nullptr ? Shape() : shape_of("moments", *moments);
  raise_if(check_batch(shapes(tensors), shapes(per_channel),
                       moments == nullptr ? nullptr : &of_moments, &shape));
  return shape;
}

template <typename T>
Array<T> empty_like(const Array<T>& array) {
  return Array<T>(py::array::ShapeContainer(array.shape(), array.shape() + array.ndim()));
}

template <typename T>
py::tuple batch_moments(const Array<T>& x, int threads, const std::string& instruction_set) {
  const BatchShape shape = checked_batch<T>({{"x", &x}}, {}, nullptr);
  Array<T> mean({shape.channels});
  Array<T> variance({shape.channels});
  Array<double> moments({std::int64_t{2}, shape.channels});
  cpu::run(shape,
           BatchMoments<T>{x.data(), mean.mutable_data(), variance.mutable_data(),
                           moments.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return py::make_tuple(mean, variance, moments);
}

template <typename T>
Array<T> batch_norm(const Array<T>& x, const Array<T>& scale, const Array<T>& offset,
                    const Array<double>& moments, double epsilon, int threads,
                    const std::string& instruction_set) {
  const BatchShape shape =
      checked_batch<T>({{"x", &x}}, {{"scale", &scale}, {"offset", &offset}}, &moments);
  Array<T> y = empty_like(x);
  cpu::run(shape,
           BatchNorm<T>{epsilon, x.data(), scale.data(), offset.data(), moments.data(),
                        y.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return y;
}

template <typename T>
py::tuple batch_norm_gradient(const Array<T>& y_gradient, const Array<T>& x, const Array<T>& scale,
                              const Array<double>& moments, double epsilon, int threads,
                              const std::string& instruction_set) {
  const BatchShape shape =
      checked_batch<T>({{"y_gradient", &y_gradient}, {"x", &x}}, {{"scale", &scale}}, &moments);
  Array<T> x_gradient = empty_like(x);
  Array<T> scale_gradient({shape.channels});
  Array<T> offset_gradient({shape.channels});
  cpu::run(shape,
           BatchNormGradient<T>{epsilon, y_gradient.data(), x.data(), scale.data(), moments.data(),
                                x_gradient.mutable_data(), scale_gradient.mutable_data(),
                                offset_gradient.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return py::make_tuple(x_gradient, scale_gradient, offset_gradient);
}

template <typename T>
py::tuple batch_norm_second_gradient(const Array<T>& u, const Array<T>& u_scale,
                                     const Array<T>& u_offset, const Array<T>& y_gradient,
                                     const Array<T>& x, const Array<T>& scale,
                                     const Array<double>& moments, double epsilon, int threads,
                                     const std::string& instruction_set) {
  const BatchShape shape = checked_batch<T>(
      {{"u", &u}, {"y_gradient", &y_gradient}, {"x", &x}},
      {{"u_scale", &u_scale}, {"u_offset", &u_offset}, {"scale", &scale}}, &moments);
  Array<T> by_y_gradient = empty_like(x);
  Array<T> by_x = empty_like(x);
  Array<T> by_scale({shape.channels});
  cpu::run(shape,
           BatchNormSecondGradient<T>{epsilon, u.data(), u_scale.data(), u_offset.data(),
                                      y_gradient.data(), x.data(), scale.data(), moments.data(),
                                      by_y_gradient.mutable_data(), by_x.mutable_data(),
                                      by_scale.mutable_data()},
           instruction_set_or_best(instruction_set), split_into(threads));
  return py::make_tuple(by_y_gradient, by_x, by_scale);
}

template <typename T>
void define(py::module_& module) {
  using namespace py::literals;
  module.def("batch_moments", &batch_moments<T>, "x"_a.noconvert(), "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("batch_norm", &batch_norm<T>, "x"_a.noconvert(), "scale"_a.noconvert(),
             "offset"_a.noconvert(), "moments"_a.noconvert(), "epsilon"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("batch_norm_gradient", &batch_norm_gradient<T>, "y_gradient"_a.noconvert(),
             "x"_a.noconvert(), "scale"_a.noconvert(), "moments"_a.noconvert(), "epsilon"_a,
             "threads"_a = 1, "instruction_set"_a = "");
  module.def("batch_norm_second_gradient", &batch_norm_second_gradient<T>, "u"_a.noconvert(),
             "u_scale"_a.noconvert(), "u_offset"_a.noconvert(), "y_gradient"_a.noconvert(),
             "x"_a.noconvert(), "scale"_a.noconvert(), "moments"_a.noconvert(), "epsilon"_a,
             "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

void define_normalisation(py::module_& module) {
  define<float>(module);
  define<double>(module);
}

}  // namespace prospr::bindings

// The Python module prospr_ops._native: build information, and the CPU kernels on NumPy arrays.
//
// The kernels are the ones the ops run; here tests, sanitizers and fuzzers reach them without
// TensorFlow. Arrays are C-contiguous and are updated in place.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/gamma.h"
#include "cpu/triad.h"

namespace py = pybind11;

namespace prospr::bindings {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// `threads` equal parts, each on a thread of its own.
cpu::ParallelFor split_into(int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be at least 1");
  return [threads](std::int64_t n, double, const cpu::Work& work) {
    std::vector<std::thread> pool;
    for (std::int64_t part = 1; part < threads; ++part) {
      pool.emplace_back(work, n * part / threads, n * (part + 1) / threads);
    }
    work(0, n / threads);
    for (std::thread& thread : pool) thread.join();
  };
}

std::string shape_of(const py::array& array) {
  return py::str(array.attr("shape")).cast<std::string>();
}

// The common size of arrays of one shape.
std::int64_t checked_size(const std::vector<std::pair<const char*, const py::array*>>& arrays) {
  const auto& [first_name, first] = arrays.front();
  if (first->size() == 0) {
    throw std::invalid_argument(std::string(first_name) + " has shape " + shape_of(*first) +
                                "; at least one element is needed");
  }
  for (const auto& [name, array] : arrays) {
    if (!array->attr("shape").equal(first->attr("shape"))) {
      throw std::invalid_argument(std::string(first_name) + " has shape " + shape_of(*first) +
                                  "; " + name + " must have the same, not " + shape_of(*array));
    }
  }
  return first->size();
}

double checked_rate(const char* name, double value) {
  if (!std::isfinite(value) || value < 0) {
    throw std::invalid_argument(std::string(name) + " must be finite and not negative, not " +
                                std::to_string(value));
  }
  return value;
}

cpu::InstructionSet instruction_set_or_best(const std::string& name) {
  return name.empty() ? cpu::best_instruction_set() : cpu::instruction_set_named(name);
}

template <typename T>
void gamma_update(Array<T> log_gamma, Array<std::int8_t> sign, const Array<T>& curvature,
                  double learning_rate, int threads, const std::string& instruction_set) {
  const std::int64_t size =
      checked_size({{"log_gamma", &log_gamma}, {"sign", &sign}, {"curvature", &curvature}});
  const auto rate = static_cast<T>(checked_rate("learning_rate", learning_rate));
  T* const log_gamma_data = log_gamma.mutable_data();
  std::int8_t* const sign_data = sign.mutable_data();
  cpu::run(cpu::GammaUpdate<T>{curvature.data(), rate, log_gamma_data, sign_data, log_gamma_data,
                               sign_data},
           size, instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
bool gamma_step(Array<T> weight, Array<T> log_gamma, Array<std::int8_t> sign,
                const Array<T>& gradient, const Array<T>& curvature, double learning_rate,
                int threads, const std::string& instruction_set) {
  const std::int64_t size = checked_size({{"weight", &weight},
                                          {"log_gamma", &log_gamma},
                                          {"sign", &sign},
                                          {"gradient", &gradient},
                                          {"curvature", &curvature}});
  const auto rate = static_cast<T>(checked_rate("learning_rate", learning_rate));
  return cpu::run(cpu::GammaStep<T>{weight.mutable_data(), log_gamma.mutable_data(),
                                    sign.mutable_data(), gradient.data(), curvature.data(), rate},
                  size, instruction_set_or_best(instruction_set), split_into(threads));
}

template <typename T>
bool gamma_momentum_step(Array<T> weight, Array<T> velocity, Array<T> log_scale, Array<T> p,
                         Array<T> q, const Array<T>& gradient, const Array<T>& curvature,
                         double learning_rate, double momentum, int threads,
                         const std::string& instruction_set) {
  const std::int64_t size = checked_size({{"weight", &weight},
                                          {"velocity", &velocity},
                                          {"log_scale", &log_scale},
                                          {"p", &p},
                                          {"q", &q},
                                          {"gradient", &gradient},
                                          {"curvature", &curvature}});
  return cpu::run(
      cpu::GammaMomentumStep<T>{weight.mutable_data(), velocity.mutable_data(),
                                log_scale.mutable_data(), p.mutable_data(), q.mutable_data(),
                                gradient.data(), curvature.data(),
                                static_cast<T>(checked_rate("learning_rate", learning_rate)),
                                static_cast<T>(checked_rate("momentum", momentum))},
      size, instruction_set_or_best(instruction_set), split_into(threads));
}

void triad(Array<float> result, const Array<float>& a, const Array<float>& b, float scale,
           int threads) {
  const std::int64_t size = checked_size({{"result", &result}, {"a", &a}, {"b", &b}});
  cpu::triad(result.mutable_data(), a.data(), b.data(), scale, size, split_into(threads));
}

py::dict build_info() {
  py::dict info;
  info["version"] = PROSPR_VERSION;
  info["tensorflow"] = PROSPR_TENSORFLOW_VERSION;
  info["compiler"] = PROSPR_COMPILER;
  info["cuda"] = false;
  std::vector<std::string> sets;
  for (const auto set : cpu::available_instruction_sets()) sets.emplace_back(cpu::name_of(set));
  info["instruction_sets"] = sets;
  info["instruction_set"] = cpu::name_of(cpu::best_instruction_set());
  return info;
}

// Arguments are taken as they are: an array of another dtype or layout would be a copy, and an
// in-place kernel must not work on a copy.
template <typename T>
void define_kernels(py::module_& module) {
  using namespace py::literals;
  module.def("gamma_update", &gamma_update<T>, "log_gamma"_a.noconvert(), "sign"_a.noconvert(),
             "curvature"_a.noconvert(), "learning_rate"_a, "threads"_a = 1,
             "instruction_set"_a = "");
  module.def("gamma_step", &gamma_step<T>, "weight"_a.noconvert(), "log_gamma"_a.noconvert(),
             "sign"_a.noconvert(), "gradient"_a.noconvert(), "curvature"_a.noconvert(),
             "learning_rate"_a, "threads"_a = 1, "instruction_set"_a = "");
  module.def("gamma_momentum_step", &gamma_momentum_step<T>, "weight"_a.noconvert(),
             "velocity"_a.noconvert(), "log_scale"_a.noconvert(), "p"_a.noconvert(),
             "q"_a.noconvert(), "gradient"_a.noconvert(), "curvature"_a.noconvert(),
             "learning_rate"_a, "momentum"_a, "threads"_a = 1, "instruction_set"_a = "");
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  using namespace py::literals;
  module.doc() = "Build information, and the CPU kernels on NumPy arrays.";
  module.def("build_info", &build_info);
  define_kernels<float>(module);
  define_kernels<double>(module);
  module.def("triad", &triad, "result"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(),
             "scale"_a, "threads"_a = 1);
}

}  // namespace prospr::bindings

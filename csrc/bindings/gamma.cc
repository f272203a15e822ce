#include "cpu/gamma.h"

#include "bindings/native.h"

namespace prospr::bindings {
namespace {

template <typename T>
T checked_rate(const char* name, double value) {
  const auto rate = static_cast<T>(value);
  raise_if(check_rate(name, rate));
  return rate;
}

template <typename T>
void gamma_update(Array<T> log_gamma, Array<std::int8_t> sign, const Array<T>& curvature,
                  double learning_rate, int threads, const std::string& instruction_set) {
  const std::int64_t size =
      checked_size({{"log_gamma", &log_gamma}, {"sign", &sign}, {"curvature", &curvature}});
  const auto rate = checked_rate<T>("learning_rate", learning_rate);
  T* const log_gamma_data = log_gamma.mutable_data();
  std::int8_t* const sign_data = sign.mutable_data();
  cpu::run(
      GammaUpdate<T>{curvature.data(), rate, log_gamma_data, sign_data, log_gamma_data, sign_data},
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
  const auto rate = checked_rate<T>("learning_rate", learning_rate);
  bool finite;
  cpu::run(GammaStep<T>{weight.mutable_data(), log_gamma.mutable_data(), sign.mutable_data(),
                        gradient.data(), curvature.data(), rate, &finite},
           size, instruction_set_or_best(instruction_set), split_into(threads));
  return finite;
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
  bool finite;
  cpu::run(
      GammaMomentumStep<T>{weight.mutable_data(), velocity.mutable_data(), log_scale.mutable_data(),
                           p.mutable_data(), q.mutable_data(), gradient.data(), curvature.data(),
                           checked_rate<T>("learning_rate", learning_rate),
                           checked_rate<T>("momentum", momentum), &finite},
      size, instruction_set_or_best(instruction_set), split_into(threads));
  return finite;
}

template <typename T>
void define_steps(py::module_& module) {
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

void define_gamma(py::module_& module) {
  define_steps<float>(module);
  define_steps<double>(module);
}

}  // namespace prospr::bindings

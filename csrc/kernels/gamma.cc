#include "kernels/gamma.h"

#include <cmath>

namespace prospr {

std::string check_weights(const std::vector<NamedShape>& arguments) {
  const std::string wrong = check_not_empty(arguments.front().name, arguments.front().shape);
  return wrong.empty() ? check_same_shape(arguments) : wrong;
}

template <typename T>
std::string check_rate(const std::string& name, T rate) {
  if (std::isfinite(rate) && rate >= 0) return "";
  return name + " must be finite and not negative, not " + std::to_string(rate);
}

template std::string check_rate(const std::string&, float);
template std::string check_rate(const std::string&, double);

}  // namespace prospr

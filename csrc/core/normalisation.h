// Batch normalisation of one channel: coefficients of what is computed of each element, from sums
// over the channel.
//
// With d = x - mean, r = 1 / sqrt(variance + epsilon) and n rows, y = scale * r * d + offset. All
// are doubles; a linear combination is applied in the type of the tensors, to x less a centre of
// that type, so that a large mean costs no digits.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace prospr::core {

struct Channel {
  double rows;
  double mean;
  double rstd;
  double scale;
};

PROSPR_HD Channel channel_of(double rows, double mean, double variance, double epsilon,
                             double scale) {
  return {rows, mean, 1 / std::sqrt(variance + epsilon), scale};
}

struct MeanAndVariance {
  double mean;
  double variance;
};

// From the sums of x - shift and of its square. A shift near the values loses no digits.
PROSPR_HD MeanAndVariance moments_of(double rows, double shift, double sum, double square) {
  const double variance = (square - sum * (sum / rows)) / rows;
  // Of rounding only; a NaN stays.
  return {shift + sum / rows, variance < 0 ? 0 : variance};
}

// What a sum over channels' elements d makes of coefficients for d: those for x - centre.
PROSPR_HD double recentred(const Channel& channel, double constant, double by_d, double centre) {
  return constant + by_d * (centre - channel.mean);
}

// The gradient at x is by_gradient * (the gradient at y) + by_d * d + constant.
struct XGradient {
  double by_gradient;
  double by_d;
  double constant;
};

// From the sums of the gradient g at y, and of g * d. The gradient at offset is the former, that at
// scale the latter times r.
PROSPR_HD XGradient x_gradient_of(const Channel& c, double sum_g, double sum_gd) {
  const double factor = c.scale * c.rstd;
  return {factor, -factor * c.rstd * c.rstd * sum_gd / c.rows, -factor * sum_g / c.rows};
}

// The sums of u = the vector that the gradient at x is multiplied with, of g, and of products.
struct SecondSums {
  double u;
  double ud;
  double g;
  double gd;
  double ug;
};

// Derivatives of L = sum u * (gradient at x) + u_scale * (gradient at scale) + u_offset * (gradient
// at offset), each a combination of u, g, d and 1.
struct SecondGradient {
  double gradient_by_u, gradient_by_d, gradient_constant;  // dL/dg
  double x_by_u, x_by_g, x_by_d, x_constant;               // dL/dx
  double scale;                                            // dL/dscale
};

PROSPR_HD SecondGradient second_gradient_of(const Channel& c, const SecondSums& sums,
                                            double u_scale, double u_offset) {
  const double r = c.rstd;
  const double n = c.rows;
  const double uh = sums.ud * r;  // sums with d * r, what is normalised
  const double gh = sums.gd * r;
  const double inner = sums.ug - sums.g * sums.u / n - gh * uh / n;
  SecondGradient result;
  result.gradient_by_u = c.scale * r;
  result.gradient_by_d = r * (u_scale - c.scale * r * uh / n);
  result.gradient_constant = u_offset - c.scale * r * sums.u / n;
  result.x_by_g = r * (u_scale - c.scale * r * uh / n);
  result.x_by_u = -c.scale * r * r * gh / n;
  result.x_by_d = -r * (r * r * c.scale * inner + result.x_by_g * gh + result.x_by_u * uh) / n;
  result.x_constant = -(result.x_by_g * sums.g + result.x_by_u * sums.u) / n;
  result.scale = r * inner;
  return result;
}

}  // namespace prospr::core

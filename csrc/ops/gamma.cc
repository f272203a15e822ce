#include "kernels/gamma.h"

#include "ops/register.h"
#include "ops/variables.h"

namespace prospr::ops {

REGISTER_OP("Prospr>GammaUpdate")
    .Input("log_gamma: T")
    .Input("sign: int8")
    .Input("curvature: T")
    .Input("learning_rate: T")
    .Output("new_log_gamma: T")
    .Output("new_sign: int8")
    .Attr("T: {float, double}")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      TF_RETURN_IF_ERROR(same_shape_then_scalars(context, 0, 3));
      ShapeHandle shape = context->input(0);
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(1), &shape));
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(2), &shape));
      context->set_output(0, shape);
      context->set_output(1, shape);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Multiplies gamma = 1 - learning_rate * curvature into a running product.

new_log_gamma = log_gamma + log|gamma| and new_sign = sign * sign(gamma), to 2.5 units in the last
place for every gamma. gamma = 0 gives -inf and keeps the sign; NaN and infinity propagate. Outputs
reuse the buffers of inputs that nobody else holds. The result is the same bits for every number of
threads and every instruction set.

log_gamma: Sum of log|gamma| so far, any shape with at least one element.
sign: -1 or +1, in log_gamma's shape.
curvature: Diagonal of the Hessian, in log_gamma's shape.
learning_rate: A finite scalar, at least 0.
new_log_gamma: In log_gamma's shape.
new_sign: In log_gamma's shape.
)doc");

template <typename T>
absl::Status read_rate(OpKernelContext* context, const std::string& name, T* rate) {
  TF_RETURN_IF_ERROR(read_scalar(context, name, rate));
  return status_of(check_rate(name, *rate));
}

template <typename Device, typename T>
class GammaUpdateOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& log_gamma = context->input(0);
    const Tensor& sign = context->input(1);
    const Tensor& curvature = context->input(2);
    OP_REQUIRES_OK(context, status_of(check_weights({{"log_gamma", shape_of(log_gamma)},
                                                     {"sign", shape_of(sign)},
                                                     {"curvature", shape_of(curvature)}})));
    T learning_rate;
    OP_REQUIRES_OK(context, read_rate(context, "learning_rate", &learning_rate));

    Tensor* new_log_gamma;
    Tensor* new_sign;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, log_gamma.shape(),
                                                                      &new_log_gamma));
    OP_REQUIRES_OK(context,
                   context->forward_input_or_allocate_output({1}, 1, sign.shape(), &new_sign));
    const GammaUpdate<T> update{
        curvature.flat<T>().data(),      learning_rate,
        log_gamma.flat<T>().data(),      sign.flat<std::int8_t>().data(),
        new_log_gamma->flat<T>().data(), new_sign->flat<std::int8_t>().data()};
    OP_REQUIRES_OK(context, launch<Device>(context, update, log_gamma.NumElements()));
  }
};
PROSPR_REGISTER(GammaUpdate, OnCpuAndGpu, Floats, "learning_rate");

REGISTER_OP("Prospr>GammaStep")
    .Input("weight: resource")
    .Input("log_gamma: resource")
    .Input("sign: resource")
    .Input("gradient: T")
    .Input("curvature: T")
    .Input("learning_rate: T")
    .Output("finite: bool")
    .Attr("T: {float, double}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      context->set_output(0, context->Scalar());
      return same_shape_then_scalars(context, 3, 2);
    })
    .Doc(R"doc(
One step of gradient descent and of the streaming prospect, in one pass over memory.

In place, weight -= learning_rate * gradient, log_gamma += log|gamma| and sign *= sign(gamma), where
gamma = 1 - learning_rate * curvature and the numerics are those of Prospr>GammaUpdate. The variables
are locked together. The result is the same bits for every number of threads and every instruction
set.

weight: Handle of a variable of dtype T with at least one element.
log_gamma: Handle of a variable of weight's dtype and shape.
sign: Handle of an int8 variable of weight's shape, -1 or +1.
gradient: In weight's shape.
curvature: In weight's shape.
learning_rate: A finite scalar, at least 0.
finite: Whether all of gradient and learning_rate * curvature was finite; the step is taken anyway.
)doc");

template <typename Device, typename T>
class GammaStepOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    T learning_rate;
    bool* finite;
    LockedVariables variables;
    OP_REQUIRES_OK(context, read_rate(context, "learning_rate", &learning_rate));
    OP_REQUIRES_OK(context, allocate(context, 0, {}, &finite));
    constexpr auto dtype = tensorflow::DataTypeToEnum<T>::value;
    OP_REQUIRES_OK(
        context,
        variables.lock(context,
                       {{"weight", dtype}, {"log_gamma", dtype}, {"sign", tensorflow::DT_INT8}},
                       {"gradient", "curvature"}));
    OP_REQUIRES_OK(context, variables.make_writable<Device>(context));
    const GammaStep<T> step{variables.data<T>(0),
                            variables.data<T>(1),
                            variables.data<std::int8_t>(2),
                            data_of<T>(context->input(3)),
                            data_of<T>(context->input(4)),
                            learning_rate,
                            finite};
    OP_REQUIRES_OK(context, launch<Device>(context, step, context->input(3).NumElements()));
  }
};
PROSPR_REGISTER(GammaStep, OnCpuAndGpu, Floats, "weight", "log_gamma", "sign", "learning_rate");

REGISTER_OP("Prospr>GammaMomentumStep")
    .Input("weight: resource")
    .Input("velocity: resource")
    .Input("log_scale: resource")
    .Input("p: resource")
    .Input("q: resource")
    .Input("gradient: T")
    .Input("curvature: T")
    .Input("learning_rate: T")
    .Input("momentum: T")
    .Output("finite: bool")
    .Attr("T: {float, double}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      context->set_output(0, context->Scalar());
      return same_shape_then_scalars(context, 5, 2);
    })
    .Doc(R"doc(
One step of gradient descent with momentum and of the streaming prospect, in one pass over memory.

In place, velocity = momentum * velocity + gradient and weight -= learning_rate * velocity; then
q = momentum * q + learning_rate * curvature * p and p -= q, both divided by max(|p|, |q|), whose
logarithm is added to log_scale. Once p = q = 0 they stay so, and log_scale is -inf. The variables are
locked together. The result is the same bits for every number of threads and every instruction set.

weight: Handle of a variable of dtype T with at least one element.
velocity: Handle of a variable of weight's dtype and shape, as are the next three.
log_scale: Logarithm of the scale of p and q.
p: Derivative of the weight by its initial value, scaled.
q: Derivative of learning_rate * velocity by the weight's initial value, scaled.
gradient: In weight's shape.
curvature: In weight's shape.
learning_rate: A finite scalar, at least 0; the same in every step.
momentum: A finite scalar, at least 0.
finite: Whether all of gradient and learning_rate * curvature was finite; the step is taken anyway.
)doc");

template <typename Device, typename T>
class GammaMomentumStepOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    T learning_rate;
    T momentum;
    bool* finite;
    LockedVariables variables;
    OP_REQUIRES_OK(context, read_rate(context, "learning_rate", &learning_rate));
    OP_REQUIRES_OK(context, read_rate(context, "momentum", &momentum));
    OP_REQUIRES_OK(context, allocate(context, 0, {}, &finite));
    constexpr auto dtype = tensorflow::DataTypeToEnum<T>::value;
    OP_REQUIRES_OK(context, variables.lock(context,
                                           {{"weight", dtype},
                                            {"velocity", dtype},
                                            {"log_scale", dtype},
                                            {"p", dtype},
                                            {"q", dtype}},
                                           {"gradient", "curvature"}));
    OP_REQUIRES_OK(context, variables.make_writable<Device>(context));
    const GammaMomentumStep<T> step{variables.data<T>(0),
                                    variables.data<T>(1),
                                    variables.data<T>(2),
                                    variables.data<T>(3),
                                    variables.data<T>(4),
                                    data_of<T>(context->input(5)),
                                    data_of<T>(context->input(6)),
                                    learning_rate,
                                    momentum,
                                    finite};
    OP_REQUIRES_OK(context, launch<Device>(context, step, context->input(5).NumElements()));
  }
};
PROSPR_REGISTER(GammaMomentumStep, OnCpuAndGpu, Floats, "weight", "velocity", "log_scale", "p", "q",
                "learning_rate", "momentum");

}  // namespace prospr::ops

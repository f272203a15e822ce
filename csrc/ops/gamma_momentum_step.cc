#include "ops/gamma.h"
#include "ops/variables.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

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
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      context->set_output(0, context->Scalar());
      return same_shape_then_scalars(context, 5, 2);
    })
    .Doc(R"doc(
One step of gradient descent with momentum and of the streaming prospect, in one pass over memory.

In place: velocity = momentum * velocity + gradient, weight -= learning_rate * velocity, and the
derivatives p = dw/dw_0 and q = learning_rate * dv/dw_0 of the diagonal recursion:
q = momentum * q + learning_rate * curvature * p, then p -= q. Both are divided by max(|p|, |q|) and
the logarithm of it is added to log_scale, so that nothing overflows or vanishes; the factor so far
is p * exp(log_scale). Start from velocity = 0, log_scale = 0, p = 1, q = 0. Once p = q = 0 they stay
so, and log_scale is -inf.

The result is the same bits for every number of threads and every instruction set. The variables are
locked together, so concurrent steps do not mix.

weight: Handle of a variable of dtype T with at least one element.
velocity: Handle of a variable of weight's dtype and shape, as are the next three.
log_scale: Logarithm of the scale of p and q.
p: Derivative of the weight by its initial value, scaled.
q: Derivative of learning_rate * velocity by the weight's initial value, scaled.
gradient: In weight's shape.
curvature: In weight's shape.
learning_rate: A finite scalar, at least 0; the same in every step.
momentum: A finite scalar, at least 0.
finite: Whether every element of gradient and of learning_rate * curvature was finite. The step is
    taken all the same.
)doc");

template <typename Device, typename T>
class GammaMomentumStepOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& gradient = context->input(5);
    const tensorflow::Tensor& curvature = context->input(6);
    T learning_rate;
    T momentum;
    OP_REQUIRES_OK(context, read_scalar(context, "learning_rate", &learning_rate));
    OP_REQUIRES_OK(context, read_scalar(context, "momentum", &momentum));
    tensorflow::Tensor* finite;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &finite));

    constexpr auto dtype = tensorflow::DataTypeToEnum<T>::value;
    LockedVariables variables;
    OP_REQUIRES_OK(context, variables.lock(context, {{"weight", dtype},
                                                     {"velocity", dtype},
                                                     {"log_scale", dtype},
                                                     {"p", dtype},
                                                     {"q", dtype}}));
    OP_REQUIRES_OK(context,
                   check_same_shape("weight", variables.shape(), "gradient", gradient.shape()));
    OP_REQUIRES_OK(context,
                   check_same_shape("weight", variables.shape(), "curvature", curvature.shape()));
    OP_REQUIRES_OK(context, variables.make_writable<Device>(context));
    const cpu::GammaMomentumStep<T> step{
        variables.data<T>(0),       variables.data<T>(1), variables.data<T>(2),
        variables.data<T>(3),       variables.data<T>(4), gradient.flat<T>().data(),
        curvature.flat<T>().data(), learning_rate,        momentum};
    OP_REQUIRES_OK(context, Gamma<Device>::run(context, step, gradient.NumElements(),
                                               finite->flat<bool>().data()));
  }
};

// Host memory means nothing to a CPU.
#define REGISTER(D, T)                                        \
  REGISTER_KERNEL_BUILDER(Name("Prospr>GammaMomentumStep")    \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<T>("T")         \
                              .HostMemory("weight")           \
                              .HostMemory("velocity")         \
                              .HostMemory("log_scale")        \
                              .HostMemory("p")                \
                              .HostMemory("q")                \
                              .HostMemory("learning_rate")    \
                              .HostMemory("momentum"),        \
                          GammaMomentumStepOp<D, T>)
REGISTER(CPU, float);
REGISTER(CPU, double);
#if defined(PROSPR_CUDA)
REGISTER(GPU, float);
REGISTER(GPU, double);
#endif
#undef REGISTER

}  // namespace prospr::ops

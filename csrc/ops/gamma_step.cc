#include "ops/gamma.h"
#include "ops/variables.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

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
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      context->set_output(0, context->Scalar());
      return same_shape_then_scalars(context, 3, 2);
    })
    .Doc(R"doc(
One step of gradient descent and of the streaming prospect, in one pass over memory.

In place: weight -= learning_rate * gradient, log_gamma += log|gamma| and sign *= sign(gamma), for
gamma = 1 - learning_rate * curvature; the numerics are those of Prospr>GammaUpdate. Moves 24 bytes
a float32 weight; sign is touched only where some gamma is negative.

The result is the same bits for every number of threads and every instruction set. The three
variables are locked together, so concurrent steps do not mix.

weight: Handle of a variable of dtype T with at least one element.
log_gamma: Handle of a variable of weight's dtype and shape.
sign: Handle of an int8 variable of weight's shape, -1 or +1.
gradient: In weight's shape.
curvature: In weight's shape.
learning_rate: A finite scalar, at least 0.
finite: Whether every element of gradient and of learning_rate * curvature was finite. The step is
    taken all the same.
)doc");

template <typename Device, typename T>
class GammaStepOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& gradient = context->input(3);
    const tensorflow::Tensor& curvature = context->input(4);
    T learning_rate;
    OP_REQUIRES_OK(context, read_scalar(context, "learning_rate", &learning_rate));
    tensorflow::Tensor* finite;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &finite));

    constexpr auto dtype = tensorflow::DataTypeToEnum<T>::value;
    LockedVariables variables;
    OP_REQUIRES_OK(context, variables.lock(context, {{"weight", dtype},
                                                     {"log_gamma", dtype},
                                                     {"sign", tensorflow::DT_INT8}}));
    OP_REQUIRES_OK(context,
                   check_same_shape("weight", variables.shape(), "gradient", gradient.shape()));
    OP_REQUIRES_OK(context,
                   check_same_shape("weight", variables.shape(), "curvature", curvature.shape()));
    OP_REQUIRES_OK(context, variables.make_writable<Device>(context));
    const cpu::GammaStep<T> step{variables.data<T>(0),           variables.data<T>(1),
                                 variables.data<std::int8_t>(2), gradient.flat<T>().data(),
                                 curvature.flat<T>().data(),     learning_rate};
    OP_REQUIRES_OK(context, Gamma<Device>::run(context, step, gradient.NumElements(),
                                               finite->flat<bool>().data()));
  }
};

// Host memory means nothing to a CPU.
#define REGISTER(D, T)                                        \
  REGISTER_KERNEL_BUILDER(Name("Prospr>GammaStep")            \
                              .Device(tensorflow::DEVICE_##D) \
                              .TypeConstraint<T>("T")         \
                              .HostMemory("weight")           \
                              .HostMemory("log_gamma")        \
                              .HostMemory("sign")             \
                              .HostMemory("learning_rate"),   \
                          GammaStepOp<D, T>)
REGISTER(CPU, float);
REGISTER(CPU, double);
#if defined(PROSPR_CUDA)
REGISTER(GPU, float);
REGISTER(GPU, double);
#endif
#undef REGISTER

}  // namespace prospr::ops

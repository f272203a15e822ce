#include "cpu/normalisation.h"
#include "ops/kernel.h"
#include "ops/normalisation.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>ChannelProducts")
    .Input("tensors: N * T")
    .Output("products: double")
    .Attr("N: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::shape_inference::ShapeHandle tensors;
      TF_RETURN_IF_ERROR(merged_tensors(context, &tensors));
      const std::int64_t count = context->num_inputs();
      const auto channels =
          context->RankKnown(tensors) ? context->Dim(tensors, -1) : context->UnknownDim();
      context->set_output(0, context->MakeShape({count + 1, count + 1, channels}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Sums of the products of tensors with each other, for each channel.

products[i, j, c] = sum over all axes but the last of tensors[i][..., c] * tensors[j][..., c],
the last i and j standing for a tensor of ones: products[i, N] are the sums of tensor i, and
products[N, N] is the number of rows. The tensors are read once. Products and sums are taken in
double, so that a variance may be had as the mean of squares less the square of the mean. The result
is the same bits for every number of threads, and symmetric in i and j to the bit.

tensors: 1 to 3 tensors of one shape [..., C], with at least one element.
products: [N + 1, N + 1, C].
)doc");

template <typename T>
class ChannelProductsOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    tensorflow::OpInputList tensors;
    OP_REQUIRES_OK(context, context->input_list("tensors", &tensors));
    cpu::ChannelProducts<T> products{};
    OP_REQUIRES_OK(context, read_tensors(tensors, &products));
    const std::int64_t size = tensors.size() + 1;
    tensorflow::Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, {size, size, products.channels}, &output));
    products.products = output->flat<double>().data();
    OP_REQUIRES_OK(context, run_kernel([&] {
                     cpu::run(products, cpu::best_instruction_set(), parallel_for(context));
                     return std::string();
                   }));
  }
};

#define REGISTER(T)                                                                         \
  REGISTER_KERNEL_BUILDER(                                                                  \
      Name("Prospr>ChannelProducts").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      ChannelProductsOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops

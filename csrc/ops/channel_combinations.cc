#include "cpu/normalisation.h"
#include "ops/kernel.h"
#include "ops/normalisation.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/op.h"

namespace prospr::ops {

REGISTER_OP("Prospr>ChannelCombinations")
    .Input("tensors: N * T")
    .Input("coefficients: T")
    .Output("results: R * T")
    .Attr("N: int >= 1")
    .Attr("R: int >= 1")
    .Attr("T: {float, double}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::shape_inference::ShapeHandle tensors;
      TF_RETURN_IF_ERROR(merged_tensors(context, &tensors));
      const std::int64_t count = context->num_inputs() - 1;
      const auto channels =
          context->RankKnown(tensors) ? context->Dim(tensors, -1) : context->UnknownDim();
      tensorflow::shape_inference::ShapeHandle coefficients;
      TF_RETURN_IF_ERROR(context->Merge(
          context->input(count), context->MakeShape({context->num_outputs(), count + 1, channels}),
          &coefficients));
      for (int i = 0; i < context->num_outputs(); ++i) context->set_output(i, tensors);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Linear combinations of tensors, with coefficients for each channel.

results[r][..., c] = sum over i of coefficients[r, i, c] * tensors[i][..., c], the last i standing
for a tensor of ones. The tensors are read once for all results. The result is the same bits for
every number of threads.

tensors: 1 to 3 tensors of one shape [..., C], with at least one element.
coefficients: [R, N + 1, C].
results: R tensors in the shape of the tensors.
)doc");

template <typename T>
class ChannelCombinationsOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    tensorflow::OpInputList tensors;
    OP_REQUIRES_OK(context, context->input_list("tensors", &tensors));
    cpu::ChannelCombinations<T> combinations{};
    OP_REQUIRES_OK(context, read_tensors(tensors, &combinations));
    tensorflow::OpOutputList results;
    OP_REQUIRES_OK(context, context->output_list("results", &results));
    const tensorflow::Tensor& coefficients = context->input(tensors.size());
    const tensorflow::TensorShape expected(
        {results.size(), tensors.size() + 1, combinations.channels});
    OP_REQUIRES(
        context, coefficients.shape() == expected,
        absl::InvalidArgumentError("coefficients must be of shape " + expected.DebugString() +
                                   ", not " + coefficients.shape().DebugString()));
    combinations.coefficients = coefficients.flat<T>().data();
    for (int i = 0; i < results.size(); ++i) {
      tensorflow::Tensor* result;
      OP_REQUIRES_OK(context, results.allocate(i, tensors[0].shape(), &result));
      combinations.results.push_back(result->flat<T>().data());
    }
    cpu::run(combinations, cpu::best_instruction_set(), parallel_for(context));
  }
};

#define REGISTER(T)                                                                             \
  REGISTER_KERNEL_BUILDER(                                                                      \
      Name("Prospr>ChannelCombinations").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      ChannelCombinationsOp<T>)
REGISTER(float);
REGISTER(double);
#undef REGISTER

}  // namespace prospr::ops

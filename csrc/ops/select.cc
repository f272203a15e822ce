#include "cpu/select.h"

#include <utility>
#include <vector>

#if defined(PROSPR_CUDA)
#include "cuda/select.h"
#endif
#include "ops/device.h"
#include "ops/kernel.h"
#include "ops/parallel_for.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace prospr::ops {

REGISTER_OP("Prospr>Select")
    .Input("scores: N * T")
    .Input("keep: int64")
    .Input("min_keep: int64")
    .Output("masks: N * mask_type")
    .Attr("N: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("mask_type: {bool, uint8} = DT_BOOL")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) -> absl::Status {
      tensorflow::DataType mask_type;
      TF_RETURN_IF_ERROR(context->GetAttr("mask_type", &mask_type));
      const int tensors = context->num_outputs();
      tensorflow::shape_inference::ShapeHandle scalar;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(tensors), 0, &scalar));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(tensors + 1), 0, &scalar));
      for (int i = 0; i < tensors; ++i) {
        if (mask_type == tensorflow::DT_BOOL) {
          context->set_output(i, context->input(i));
          continue;
        }
        tensorflow::shape_inference::DimensionHandle bytes =
            context->NumElements(context->input(i));
        TF_RETURN_IF_ERROR(context->Add(bytes, 7, &bytes));
        TF_RETURN_IF_ERROR(context->Divide(bytes, 8, false, &bytes));
        context->set_output(i, context->Vector(bytes));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
Marks the `keep` largest scores of a list of tensors.

The scores of all tensors are ranked together; among equal ones those of the earlier tensor, and in a
tensor those of the lower index in row-major order, come first. -inf comes last, -0 and +0 are equal,
and NaN is an error that names the tensor.

The scores are read about three times (five times in float64) and are neither copied nor sorted:
besides the masks the op needs less than a megabyte a thread. A min_keep that some tensors do not reach by
rank takes as many reads again, and again where that leaves others short. The result is the same for
every number of threads and every instruction set. On a GPU, whose work this op waits for, they are read
once more than they have digits of 11 bits.

scores: Tensors of any shapes with at least one element each.
keep: A scalar, at least 0 and at most the number of scores: exactly so many are kept.
min_keep: A scalar, at least 0: so many of each tensor are kept whatever their rank, or all of a
  tensor that has fewer. No more in all than keep.
masks: For each tensor, in mask_type bool: true where a score is kept, in its shape. In uint8: the
  same as a vector of bits, the first in the highest bit of the first byte, the last byte filled up
  with zeros (as numpy.packbits).
)doc");

namespace {

// The kernels, by device.
template <typename Device>
struct Selecting;

template <>
struct Selecting<CPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::Selection<T>& selection,
                          const std::vector<std::int64_t>&) {
    return run_kernel(
        [&] { return cpu::run(selection, cpu::best_instruction_set(), parallel_for(context)); });
  }
};

#if defined(PROSPR_CUDA)
template <>
struct Selecting<GPU> {
  template <typename T>
  static absl::Status run(tensorflow::OpKernelContext* context, const cpu::Selection<T>& selection,
                          const std::vector<std::int64_t>& sizes) {
    tensorflow::Tensor scratch;
    TF_RETURN_IF_ERROR(
        context->allocate_temp(tensorflow::DT_INT8, {cuda::select_scratch_bytes(sizes)}, &scratch));
    std::string failure;
    const absl::Status status = run_kernel([&] {
      return cuda::run(selection, scratch.flat<std::int8_t>().data(), stream_of(context), &failure);
    });
    return failure.empty() ? status : launch_status(failure);
  }
};
#endif

}  // namespace

template <typename Device, typename T, typename Mask>
class SelectOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    tensorflow::OpInputList scores;
    OP_REQUIRES_OK(context, context->input_list("scores", &scores));
    cpu::Selection<typename KernelType<T>::Type> selection;
    selection.packed = !std::is_same_v<Mask, bool>;
    OP_REQUIRES_OK(context, read_count(context, "keep", &selection.keep));
    OP_REQUIRES_OK(context, read_count(context, "min_keep", &selection.min_keep));
    std::vector<std::int64_t> sizes;
    for (const tensorflow::Tensor& tensor : scores) sizes.push_back(tensor.NumElements());
    OP_REQUIRES_OK(context,
                   status_of(cpu::check_selection(sizes, selection.keep, selection.min_keep)));

    tensorflow::OpOutputList masks;
    OP_REQUIRES_OK(context, context->output_list("masks", &masks));
    for (int i = 0; i < scores.size(); ++i) {
      const tensorflow::TensorShape packed_shape({(sizes[i] + 7) / 8});
      tensorflow::Tensor* mask;
      OP_REQUIRES_OK(context,
                     masks.allocate(i, selection.packed ? packed_shape : scores[i].shape(), &mask));
      selection.tensors.push_back({data_of<T>(scores[i]), sizes[i],
                                   reinterpret_cast<std::uint8_t*>(mask->flat<Mask>().data())});
    }
    OP_REQUIRES_OK(context, Selecting<Device>::run(context, selection, sizes));
  }

 private:
  static absl::Status read_count(tensorflow::OpKernelContext* context, const char* name,
                                 std::int64_t* count) {
    const tensorflow::Tensor* tensor;
    TF_RETURN_IF_ERROR(context->input(name, &tensor));
    if (tensor->dims() != 0) {
      return absl::InvalidArgumentError(std::string(name) + " must be a scalar, not of shape " +
                                        tensor->shape().DebugString());
    }
    *count = tensor->scalar<std::int64_t>()();
    return absl::OkStatus();
  }
};

// Host memory means nothing to a CPU.
#define REGISTER(D, T, Mask)                                     \
  REGISTER_KERNEL_BUILDER(Name("Prospr>Select")                  \
                              .Device(tensorflow::DEVICE_##D)    \
                              .TypeConstraint<T>("T")            \
                              .TypeConstraint<Mask>("mask_type") \
                              .HostMemory("keep")                \
                              .HostMemory("min_keep"),           \
                          SelectOp<D, T, Mask>)
#define REGISTER_BOTH(D, T) \
  REGISTER(D, T, bool);     \
  REGISTER(D, T, std::uint8_t)
#define REGISTER_ALL(D)                   \
  REGISTER_BOTH(D, Eigen::half);          \
  REGISTER_BOTH(D, tensorflow::bfloat16); \
  REGISTER_BOTH(D, float);                \
  REGISTER_BOTH(D, double)
REGISTER_ALL(CPU);
#if defined(PROSPR_CUDA)
REGISTER_ALL(GPU);
#endif
#undef REGISTER_ALL
#undef REGISTER_BOTH
#undef REGISTER

}  // namespace prospr::ops

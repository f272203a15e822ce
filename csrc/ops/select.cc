#include "kernels/select.h"

#include <utility>
#include <vector>

#include "ops/register.h"

namespace prospr::ops {

REGISTER_OP("Prospr>Select")
    .Input("scores: N * T")
    .Input("keep: int64")
    .Input("min_keep: int64")
    .Output("masks: N * mask_type")
    .Attr("N: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("mask_type: {bool, uint8} = DT_BOOL")
    .SetShapeFn([](InferenceContext* context) -> absl::Status {
      tensorflow::DataType mask_type;
      TF_RETURN_IF_ERROR(context->GetAttr("mask_type", &mask_type));
      const int tensors = context->num_outputs();
      ShapeHandle scalar;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(tensors), 0, &scalar));
      TF_RETURN_IF_ERROR(context->WithRank(context->input(tensors + 1), 0, &scalar));
      for (int i = 0; i < tensors; ++i) {
        if (mask_type == tensorflow::DT_BOOL) {
          context->set_output(i, context->input(i));
          continue;
        }
        DimensionHandle bytes = context->NumElements(context->input(i));
        TF_RETURN_IF_ERROR(context->Add(bytes, 7, &bytes));
        TF_RETURN_IF_ERROR(context->Divide(bytes, 8, false, &bytes));
        context->set_output(i, context->Vector(bytes));
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
Marks the `keep` largest scores of a list of tensors, which are ranked together.

Among equal scores those of the earlier tensor, and in a tensor those of the lower index in row-major
order, come first. -inf comes last, -0 and +0 are equal, and NaN is an error that names the tensor.
The scores are neither copied nor sorted. The result is the same for every number of threads and
every instruction set.

scores: Tensors of any shapes with at least one element each.
keep: A scalar, at least 0 and at most the number of scores: exactly so many are kept.
min_keep: A scalar, at least 0: kept of each tensor at least, or all of a smaller one.
masks: bool in the scores' shape, or uint8 as of numpy.packbits: true where a score is kept.
)doc");

namespace {

struct SelectTypes {
  static constexpr const char* kAttributes[] = {"T", "mask_type"};
  using Kernels =
      Table<Row<Eigen::half, bool>, Row<Eigen::half, std::uint8_t>, Row<tensorflow::bfloat16, bool>,
            Row<tensorflow::bfloat16, std::uint8_t>, Row<float, bool>, Row<float, std::uint8_t>,
            Row<double, bool>, Row<double, std::uint8_t>>;
};

}  // namespace

template <typename Device, typename T, typename Mask>
class SelectOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::OpInputList scores;
    OP_REQUIRES_OK(context, context->input_list("scores", &scores));
    Selection<typename KernelType<T>::Type> selection;
    selection.packed = !std::is_same_v<Mask, bool>;
    OP_REQUIRES_OK(context, read_scalar(context, "keep", &selection.keep));
    OP_REQUIRES_OK(context, read_scalar(context, "min_keep", &selection.min_keep));
    Shape sizes;
    for (const Tensor& tensor : scores) sizes.push_back(tensor.NumElements());
    OP_REQUIRES_OK(context, status_of(check_selection(sizes, selection.keep, selection.min_keep)));
    for (int i = 0; i < scores.size(); ++i) {
      const Shape packed{(sizes[i] + 7) / 8};
      Mask* mask;
      OP_REQUIRES_OK(context,
                     allocate(context, i, selection.packed ? packed : shape_of(scores[i]), &mask));
      selection.tensors.push_back(
          {data_of<T>(scores[i]), sizes[i], reinterpret_cast<std::uint8_t*>(mask)});
    }
    OP_REQUIRES_OK(context, launch<Device>(context, selection));
  }
};
PROSPR_REGISTER(Select, OnCpuAndGpu, SelectTypes, "keep", "min_keep");

}  // namespace prospr::ops

// The stages' views of checked tensors. A packed tensor lacks the batch dimension.
#pragma once
#include "stages.h"
#include "tensor.h"

namespace seer {

TokenView token_view(const Tensor &t);
FloatView lse_view(const Tensor &t);
FloatView scores_view(const Tensor &t);
// Of bits or of bytes, by the dtype. An absent tensor leaves both as they are.
void set_mask(const Tensor &t, BlockMaskView &bits, ByteMaskView &bytes);

}  // namespace seer

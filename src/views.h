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

// Some heads of a tensor, a matrix, scores or a mask. What is absent stays absent.
TokenView some_heads(TokenView view, int64_t first, int64_t count);
GateMatrix some_heads(GateMatrix matrix, int64_t first, int64_t count);
FloatView some_heads(FloatView view, int64_t first);
BlockMaskView some_heads(BlockMaskView view, int64_t first);

}  // namespace seer

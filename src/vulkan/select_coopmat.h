// select by threshold on cooperative matrices: see shaders/select_coopmat.comp.
#pragma once
#include <optional>

#include "kernels.h"
#include "pieces.h"

namespace seer::vulkan {

// How the kernel is cut; its specialization constants.
struct SelectTile {
  uint32_t threads = 0, size = 0;  // of a workgroup, of a subgroup
  CoopShape shape;
  CoopLayout layout;
  uint32_t dim = 0;
  uint32_t tiles = 0;    // row matrices of a subgroup
  uint32_t buffers = 0;  // of key blocks
  uint32_t rows() const { return threads / size * tiles * shape.m; }
  uint32_t shared_bytes() const;
  KernelKey key() const;
};

// The matrices whose layout is to be known; nothing: the device's do not serve.
std::optional<CoopShape> select_shape(const Caps &caps);
// Whether the device, the layout of its matrices and `dim` allow it. Like select_tile it goes by nothing that differs
// between a prompt and its chunks.
bool selects_on_matrices(const VulkanDevice &device, int64_t dim);
// Nothing: they do not, or the kernel is wrong. rows: of all heads of a call.
std::optional<SelectTile> select_tile(VulkanDevice &device, int64_t dim, int64_t rows);

// Block rows 0 .. rows - 1 of a sequence, by the softmax of their logits. split_k: its key blocks' vectors, taken apart
// (record_split), k_vectors of them.
struct SelectSplit {
  const SelectArgs &args;
  const Sequence &sequence;
  int64_t rows = 0;
  const void *split_k = nullptr;
  int64_t k_vectors = 0;
};
void record_select_split(VulkanDevice &device, Exec &exec, const SelectTile &tile, const SelectSplit &what,
                         bool beside);

}  // namespace seer::vulkan

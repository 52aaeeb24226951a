// How many key blocks block row r sees, as causal_blocks of src/block_mask.h.
uint causal_blocks(uint r, uint q_len, uint offset, uint block) {
  const uint rows = min((r + 1) * block, q_len);
  // (offset + rows + block - 1) / block without leaving 32 bits.
  return (offset / block) + (offset % block + rows + block - 1) / block;
}

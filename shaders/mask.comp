// Masks of bytes to bits, and back. One item is one row of one head.
#version 450
layout(local_size_x = 64) in;

layout(constant_id = 0) const uint TO_BYTES = 0;

layout(push_constant) uniform Push {
  uint first, count;
  uint rows;                                   // of a head
  uint bits_base, bits_head, bits_row, words;  // in words; `words` of a row are written
  uint bytes_base, bytes_head, bytes_row;      // in bytes
  uint cols;                                   // bytes of a row; to bits: that count
} push;

layout(binding = 0) buffer Bits { uint bits[]; };
layout(binding = 1) buffer Bytes { uint bytes[]; };

void to_bits(uint bit_row, uint byte_row) {
  for (uint w = gl_LocalInvocationIndex; w < push.words; w += 64) {
    uint word = 0;
    const uint end = min(push.cols, 32 * w + 32);
    for (uint j = 32 * w; j < end; j++) {
      const uint at = byte_row + j;
      if ((bytes[at >> 2] >> (8 * (at & 3)) & 0xff) != 0) word |= 1u << (j & 31);
    }
    bits[bit_row + w] = word;
  }
}

void to_bytes(uint bit_row, uint byte_row) {
  if (push.cols == 0) return;
  const uint end = byte_row + push.cols;
  for (uint w = (byte_row >> 2) + gl_LocalInvocationIndex; w <= (end - 1) >> 2; w += 64) {
    uint value = 0, mine = 0;
    for (uint b = 0; b < 4; b++) {
      const uint at = 4 * w + b;
      if (at < byte_row || at >= end) continue;
      const uint j = at - byte_row;
      value |= (bits[bit_row + (j >> 5)] >> (j & 31) & 1) << (8 * b);
      mine |= 0xffu << (8 * b);
    }
    if (mine == 0xffffffffu) {
      bytes[w] = value;
    } else {  // the other bytes are another row's, or nobody's
      atomicAnd(bytes[w], ~mine);
      atomicOr(bytes[w], value);
    }
  }
}

void main() {
  const uint group = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
  if (group >= push.count) return;
  const uint item = push.first + group, head = item / push.rows, row = item % push.rows;
  const uint bit_row = push.bits_base + head * push.bits_head + row * push.bits_row;
  const uint byte_row = push.bytes_base + head * push.bytes_head + row * push.bytes_row;
  if (TO_BYTES == 0)
    to_bits(bit_row, byte_row);
  else
    to_bytes(bit_row, byte_row);
}

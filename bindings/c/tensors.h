/* tensors.h: as much of .safetensors as the examples need, in C and C++: tensors of a file that was read whole, as
 * views into it; and the checksum that they print. A program of your own has better ways to its tensors. */
#ifndef EXAMPLE_TENSORS_H
#define EXAMPLE_TENSORS_H
#include <seerattn/seerattn.h>
#include <stdio.h>
#include <string.h>

/* The value of "key": in the JSON object that starts at `object`, or NULL. */
static inline const char *json_value(const char *object, const char *key) {
  char quoted[32];
  snprintf(quoted, sizeof quoted, "\"%s\":", key);
  const char *end = strchr(object, '}'), *found = strstr(object, quoted);
  return found && end && found < end ? found + strlen(quoted) : NULL;
}

/* The tensor called `name` (`file` ends with a NUL that `size` does not count); absent (mem 0) if the file has no such
 * tensor of a floating-point type, or is damaged. */
static inline seer_tensor find_tensor(char *file, uint64_t size, const char *name) {
  seer_tensor tensor;
  memset(&tensor, 0, sizeof tensor);
  const seer_tensor none = tensor;
  uint64_t header = 0;
  for (int i = 0; i < 8 && size >= 8; i++) header |= (uint64_t)(unsigned char)file[i] << 8 * i;
  if (size < 8 || header > size - 8 || header == 0) return none;
  char quoted[64], last = file[8 + header - 1];
  snprintf(quoted, sizeof quoted, "\"%s\":{", name);
  file[8 + header - 1] = 0; /* searches stop at the header's end */
  const char *object = strstr(file + 8, quoted);
  const char *dtype = object ? json_value(object, "dtype") : NULL;
  const char *shape = object ? json_value(object, "shape") : NULL;
  const char *offsets = object ? json_value(object, "data_offsets") : NULL;
  unsigned long long begin = 0, end = 0;
  if (dtype && shape && offsets && sscanf(offsets, "[%llu,%llu]", &begin, &end) == 2 && begin <= end &&
      end <= size - 8 - header) {
    tensor.mem = SEER_MEM_HOST;
    if (!strncmp(dtype, "\"F32\"", 5)) tensor.dtype = SEER_F32;
    if (!strncmp(dtype, "\"F16\"", 5)) tensor.dtype = SEER_F16;
    if (!strncmp(dtype, "\"BF16\"", 6)) tensor.dtype = SEER_BF16;
    tensor.data = file + 8 + header + begin;
    tensor.size = end - begin;
    long long extent = 0;
    for (int read = 0; tensor.ndim < 4 && sscanf(shape, "%*1[[,]%lld%n", &extent, &read) == 1; shape += read)
      tensor.shape[tensor.ndim++] = extent;
  }
  file[8 + header - 1] = last;
  return tensor.dtype ? tensor : none;
}

/* CRC-32 as in zlib, gzip and PNG. */
static inline uint32_t crc32_of(const void *bytes, uint64_t size) {
  uint32_t crc = 0xffffffff;
  for (const unsigned char *b = (const unsigned char *)bytes; size > 0; size--) {
    crc ^= *b++;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xedb88320 & (0u - (crc & 1)));
  }
  return ~crc;
}
#endif

/* Aligned memory for allocators of tests, in C and C++; NULL if there is none. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#endif

static inline void *aligned_get(uint64_t size, uint64_t align) {
#if defined(_WIN32)
  return _aligned_malloc((size_t)size, (size_t)align);
#else
  void *p = NULL;
  return posix_memalign(&p, (size_t)align, (size_t)size) == 0 ? p : NULL;
#endif
}

static inline void aligned_put(void *p) {
#if defined(_WIN32)
  _aligned_free(p);
#else
  free(p);
#endif
}

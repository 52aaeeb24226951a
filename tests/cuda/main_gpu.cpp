// Exits 77, which Meson takes for skipped, where there is no CUDA device.
#include <doctest/doctest.h>

#include <cstdio>

#include "backend.h"

int main(int argc, char **argv) {
  if (seer::backend(seer::BackendKind::cuda).device_count() == 0) {
    std::printf("SKIPPED: no CUDA device here\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}

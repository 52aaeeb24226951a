#include "backend.h"

#include "../support/aligned.h"

#include <doctest/doctest.h>

#include <cstring>
#include <set>

using namespace seer;

TEST_CASE("backends: the registry is ordered, complete and named") {
  std::vector<std::string> names;
  for (const BackendFns *fns : backends()) {
    names.push_back(fns->name);
    CHECK(fns->device_count() >= 0);
    CHECK(&backend(fns->kind) == fns);
  }
  CHECK(names == std::vector<std::string>{"cuda", "vulkan", "cpu"});
  CHECK_THROWS_AS(backend(BackendKind::automatic), Error);
  CHECK_THROWS_AS(backend(BackendKind(17)), Error);
}

TEST_CASE("backends: one that has no device says so, and automatic passes it over") {
  for (const BackendFns *fns : backends()) {
    if (fns->device_count() > 0) continue;
    CAPTURE(fns->name);
    try {
      create_device(fns->kind, {});
      FAIL("a device was created");
    } catch (const Error &error) {
      CHECK(error.status() == Status::unsupported);
      CHECK(std::strstr(error.what(), fns->name));
    }
  }
  std::set<std::string> told;
  DeviceParams params;
  params.log = {.fn = [](void *user, int32_t, const char *text,
                         size_t n) { static_cast<std::set<std::string> *>(user)->insert(std::string(text, n)); },
                .user = &told,
                .level = LogLevel::info};
  const auto device = create_device(BackendKind::automatic, params);
  REQUIRE(device);
  for (const BackendFns *fns : backends()) {
    if (fns == device->fns) break;
    bool mentioned = false;
    for (const std::string &text : told) mentioned |= text.find(fns->name) != std::string::npos;
    CHECK_MESSAGE(mentioned, fns->name, " was passed over in silence");
  }
}

TEST_CASE("backends: a device that does not exist is refused with the range that does") {
  DeviceParams params;
  params.ordinal = 1;
  CHECK_THROWS_WITH_AS(create_device(BackendKind::cpu, params), "device is 1; backend cpu has devices 0 to 0", Error);
  params.ordinal = -1;
  CHECK_THROWS_AS(create_device(BackendKind::cpu, params), Error);
}

TEST_CASE("backends: cpu memory is aligned, writable, and comes from the caller's allocator") {
  struct Counter {
    int64_t live = 0, calls = 0;
    bool refuse = false;
  } counter;
  DeviceParams params;
  params.threads = 1;
  params.allocator.user = &counter;
  params.allocator.alloc = [](void *user, uint64_t size, uint64_t align) -> void * {
    auto &c = *static_cast<Counter *>(user);
    if (c.refuse) return nullptr;
    c.live += int64_t(size);
    c.calls++;
    return aligned_get(size, align);
  };
  params.allocator.free = [](void *user, void *ptr, uint64_t size) {
    static_cast<Counter *>(user)->live -= int64_t(size);
    aligned_put(ptr);
  };
  const auto device = create_device(BackendKind::cpu, params);
  const BackendFns &fns = *device->fns;
  const Memory memory = fns.alloc(*device, 1000);
  CHECK(counter.live == 1000);
  CHECK(reinterpret_cast<uintptr_t>(memory.address) % 64 == 0);
  const char text[] = "block";
  char back[sizeof text] = {};
  fns.write(*device, memory, 994, text, sizeof text);
  fns.read(*device, memory, 994, back, sizeof back);
  CHECK(std::string(back) == text);
  fns.free(*device, memory);
  const Memory empty = fns.alloc(*device, 0);
  fns.free(*device, empty);
  CHECK(counter.live == 0);
  counter.refuse = true;
  CHECK_THROWS_AS(fns.alloc(*device, 10), Error);
}

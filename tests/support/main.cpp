// The main of every doctest program that brings none of its own.
#include <doctest/doctest.h>

// Under a sanitizer: an allocation beyond its limit fails as any other does; the tests ask for some.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the sanitizers' names
__attribute__((visibility("default"))) const char *__asan_default_options() { return "allocator_may_return_null=1"; }
__attribute__((visibility("default"))) const char *__tsan_default_options() { return "allocator_may_return_null=1"; }
// NOLINTEND(bugprone-reserved-identifier)
}

int main(int argc, char **argv) { return doctest::Context(argc, argv).run(); }

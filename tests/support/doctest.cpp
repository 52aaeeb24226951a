// The body of doctest: compiled once, not with every program that tests with it.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

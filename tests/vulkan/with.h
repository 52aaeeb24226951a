// An environment variable for the life of a scope.
#pragma once
#include <cstdlib>

class With {
public:
  With(const char *name, const char *value) : name_(name) { setenv(name, value, 1); }
  ~With() { unsetenv(name_); }
  With(const With &) = delete;
  With &operator=(const With &) = delete;

private:
  const char *name_;
};

#include <iostream>
#include <seerattn/seerattn.hpp>

int main() {
  const seerattn::Context context({.backend = seerattn::Backend::cpu});
  std::cout << context.info().name << '\n';
}

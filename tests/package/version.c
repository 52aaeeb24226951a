#include <seerattn/seerattn.h>
#include <stdio.h>

int main(void) {
  const unsigned version = seer_version();
  printf("%u.%u.%u\n", version >> 16, version >> 8 & 255, version & 255);
  return version == SEER_VERSION ? 0 : 1;
}

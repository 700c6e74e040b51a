// argv[1] MiB of memory, a quarter of it compressible; then sleeps.
#include <errno.h>
#include <sys/mman.h>

#include "rst_common.h"

int main(int argc, char** argv) {
  GoOn(SIGTERM);
  const size_t bytes = strtoul(argv[1], nullptr, 10) << 20;
  char* memory = static_cast<char*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(memory != MAP_FAILED);
  for (size_t i = 0; i < bytes; i += 4096) {
    Fill(memory + i, i / 4096 % 4 == 0 ? 1024 : 4096, i);
  }
  Say("ready");
  while (!go) SleepMs(50);
  for (size_t i = 0; i < bytes; i += 4096) {
    EXPECT(IsFilled(memory + i, i / 4096 % 4 == 0 ? 1024 : 4096, i));
  }
  Say("done");
  return 0;
}

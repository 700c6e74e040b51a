// mem_refault — drops pages of its own in a private file mapping and writes them again, for ever.
// Usage: mem_refault FILE PAGES. FILE: at least PAGES long. Prints "ready" when it starts.
//
// Between the fault that brings a page back from the file and the write that wanted it lies a return to user mode: a stop falls
// there often.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  constexpr size_t kPage = 4096;
  if (argc < 3) return 2;
  const size_t pages = strtoull(argv[2], nullptr, 10);
  const int file = open(argv[1], O_RDONLY);
  void* at = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (file < 0 || at == MAP_FAILED || pages == 0) return 1;
  auto* memory = static_cast<volatile uint8_t*>(at);
  for (size_t i = 0; i < pages; ++i) memory[i * kPage] = 1;
  puts("ready");
  fflush(stdout);
  for (uint64_t n = 0;; ++n) {
    volatile uint8_t* page = memory + n % pages * kPage;
    madvise(const_cast<uint8_t*>(page), kPage, MADV_DONTNEED);
    page[8] = static_cast<uint8_t>(n);
  }
}

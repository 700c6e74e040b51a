// kinds — has memory of the kinds that options are about, and says what it finds in it.
// Usage: kinds PROGRESS_FILE LIBRARY
//
//   "dontdump"  1 MiB, marked MADV_DONTDUMP, written once
//   LIBRARY     libkinds_answer.so, loaded from there: each step calls its code and reads its table
//   "huge"      16 MiB, MADV_HUGEPAGE: each step writes a byte or so into one of its eight huge pages
//
// Every 2 ms "<step, 20 digits> dontdump=<full|zero|else> huge=<KiB>" goes to PROGRESS_FILE, huge being what
// of "huge" the kernel maps by huge pages. A wrong answer or byte: "BAD <what>" and exit status 3.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "testdata/targets/kinds_answer.h"

namespace {

constexpr size_t kDontDumpBytes = 1 << 20;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kHugeBytes = 8 * kHugePage;

int progress_fd = -1;

[[noreturn]] void Bad(const char* what) {
  char text[128];
  const int n = snprintf(text, sizeof text, "BAD %s\n", what);
  if (pwrite(progress_fd, text, n, 0) < 0) perror("pwrite");
  _exit(3);
}

uint8_t* Map(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) Bad("mmap");
  return static_cast<uint8_t*>(at);
}

const char* StateOf(const uint8_t* memory) {
  bool full = true, zero = true;
  for (size_t i = 0; i < kDontDumpBytes; ++i) {
    full &= memory[i] == static_cast<uint8_t>(i * 7 + i / 4096 + 1);
    zero &= memory[i] == 0;
  }
  return full ? "full" : zero ? "zero" : "else";
}

long HugeKibibytes(const uint8_t* memory) {
  FILE* smaps = fopen("/proc/self/smaps", "r");
  if (smaps == nullptr) return -1;
  char line[512];
  long found = 0, kib = 0;
  bool here = false;
  while (fgets(line, sizeof line, smaps) != nullptr) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      here = start < reinterpret_cast<uint64_t>(memory) + kHugeBytes &&
             end > reinterpret_cast<uint64_t>(memory);
    }
    if (here && sscanf(line, "AnonHugePages: %ld kB", &kib) == 1) found += kib;
  }
  fclose(smaps);
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  progress_fd = open(argv[1], O_RDWR | O_CREAT, 0600);
  if (progress_fd < 0) return 2;
  void* library = dlopen(argv[2], RTLD_NOW);
  if (library == nullptr) Bad(dlerror());
  const auto answer = reinterpret_cast<uint64_t (*)(uint64_t)>(dlsym(library, "KindsAnswer"));
  if (answer == nullptr) Bad(dlerror());

  uint8_t* dontdump = Map(kDontDumpBytes);
  madvise(dontdump, kDontDumpBytes, MADV_DONTDUMP);
  for (size_t i = 0; i < kDontDumpBytes; ++i) dontdump[i] = i * 7 + i / 4096 + 1;

  uint8_t* huge = Map(kHugeBytes + kHugePage);
  huge += kHugePage - reinterpret_cast<uint64_t>(huge) % kHugePage;
  madvise(huge, kHugeBytes, MADV_HUGEPAGE);
  memset(huge, 0x55, kHugeBytes);

  for (uint64_t step = 1;; ++step) {
    if (answer(step) != KindsExpected(step)) Bad("the library's answer");
    uint8_t* page = huge + step % 8 * kHugePage + step / 8 % 512 * 4096;
    if (page[step % 4000] != 0x55) Bad("memory");
    page[4095] = step;
    char text[96];
    const int n = snprintf(text, sizeof text, "%020lu dontdump=%s huge=%ld\n", step,
                           StateOf(dontdump), HugeKibibytes(huge));
    if (pwrite(progress_fd, text, n, 0) != n) return 2;
    usleep(2000);
  }
}

// Memory of every kind, checked and changed at every tick. argv[1]: a directory for its files.
#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <string>

#include "rst_common.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

constexpr size_t kMiB = 1 << 20;

static char* Map(size_t bytes, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1,
                 int prot = PROT_READ | PROT_WRITE, off_t offset = 0) {
  void* memory = mmap(nullptr, bytes, prot, flags, fd, offset);
  EXPECT(memory != MAP_FAILED);
  return static_cast<char*>(memory);
}

static int NewFile(const std::string& path, size_t bytes, uint64_t seed) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  EXPECT(fd >= 0);
  std::string content(bytes, '\0');
  Fill(content.data(), bytes, seed);
  EXPECT(write(fd, content.data(), bytes) == static_cast<ssize_t>(bytes));
  return fd;
}

static int DeepStack(int depth) {
  char block[8192];
  memset(block, depth, sizeof block);
  asm volatile("" ::"r"(block) : "memory");
  const int below = depth == 0 ? 0 : DeepStack(depth - 1);
  return below + block[100];
}

static std::string FlagsOf(const void* address) {
  FILE* smaps = fopen("/proc/self/smaps", "r");
  char line[1024];
  bool inside = false;
  std::string flags;
  while (fgets(line, sizeof line, smaps) != nullptr) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      inside = start <= (uintptr_t)address && (uintptr_t)address < end;
    }
    if (inside && strncmp(line, "VmFlags:", 8) == 0) flags = line;
  }
  fclose(smaps);
  // The kernel sets and drops these by itself; "lf", on old kernels "??", is MLOCK_ONFAULT, which a restore adds.
  for (const char* own : {" sd", " ac", " um", " uw", " lf", " ??"}) {
    const size_t at = flags.find(own);
    if (at != std::string::npos) flags.erase(at, 3);
  }
  return flags;
}

int main(int argc, char** argv) {
  GoOn(SIGTERM);
  const std::string directory = argv[1];

  char* secret = Map(kMiB);  // content behind PROT_NONE
  Fill(secret, kMiB, 1);
  EXPECT(mprotect(secret, kMiB, PROT_NONE) == 0);

  char* constant = Map(kMiB);  // read-only, every second page of it populated
  for (size_t i = 0; i < kMiB; i += 8192) Fill(constant + i, 4096, 2 + i);
  EXPECT(mprotect(constant, kMiB, PROT_READ) == 0);

  char* code = Map(4096);  // mov $42+n, %eax; ret
  const unsigned char function[] = {0xb8, 42, 0, 0, 0, 0xc3};
  memcpy(code, function, sizeof function);
  EXPECT(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);

  char* moved = Map(kMiB);
  Fill(moved, kMiB, 3);
  moved = static_cast<char*>(mremap(moved, kMiB, 4 * kMiB, MREMAP_MAYMOVE));
  EXPECT(moved != MAP_FAILED);

  char* shared = Map(kMiB, MAP_SHARED | MAP_ANONYMOUS);  // seen at two places
  Fill(shared, kMiB / 2, 4);
  char* shared_again = static_cast<char*>(mremap(shared, 0, kMiB, MREMAP_MAYMOVE));
  EXPECT(shared_again != MAP_FAILED);
  char* shared_middle = Map(4096, MAP_PRIVATE | MAP_ANONYMOUS);  // keeps a gap between them
  EXPECT(mprotect(shared_again, kMiB, PROT_READ) == 0);

  const int private_fd = NewFile(directory + "/private", kMiB, 5);
  char* private_file = Map(kMiB, MAP_PRIVATE, private_fd);
  memset(private_file + 8192, 0, 4096);        // a page of zeros over the file's
  Fill(private_file + 16384, 4096, 6);
  close(private_fd);
  const int tail_fd = NewFile(directory + "/tail", 5000, 7);  // ends inside its second page
  char* tail = Map(2 * 4096, MAP_PRIVATE, tail_fd);
  EXPECT(tail[5001] == 0);
  tail[5002] = 'x';
  close(tail_fd);

  const int shared_fd = NewFile(directory + "/shared", kMiB, 8);
  char* shared_file = Map(kMiB, MAP_SHARED, shared_fd);
  char* shared_file_part = Map(8192, MAP_SHARED, shared_fd, PROT_READ, 4096);
  close(shared_fd);

  char* huge = Map(1ull << 34, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);  // 16 GiB
  Fill(huge + (1ull << 33), 4096, 9);
  char* dropped = Map(kMiB);
  Fill(dropped, kMiB, 10);
  EXPECT(madvise(dropped + kMiB / 2, kMiB / 2, MADV_DONTNEED) == 0);
  char* advised = Map(kMiB);
  EXPECT(madvise(advised, kMiB, MADV_DONTFORK) == 0);
  EXPECT(madvise(advised, kMiB, MADV_DONTDUMP) == 0);
  char* huge_pages = Map(4 * kMiB);
  EXPECT(madvise(huge_pages, 4 * kMiB, MADV_HUGEPAGE) == 0);
  Fill(huge_pages, 4 * kMiB, 11);
  char* locked = Map(64 << 10);
  EXPECT(mlock(locked, 64 << 10) == 0);
  char* named = Map(64 << 10);
  prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, named, 64 << 10, "a name");
  char* grows = Map(64 << 10, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
  // Flags are compared, and neighbours that have the same ones merge: fences between them.
  const char* with_flags[] = {secret, constant, code, huge, huge_pages, advised, locked, named, grows};
  std::string flags;
  for (const char* address : with_flags) flags += FlagsOf(address);

  Say("ready");
  uint64_t tick = 0;
  for (; !go; ++tick) {
    EXPECT(mprotect(secret, kMiB, PROT_READ) == 0 && IsFilled(secret, kMiB, 1));
    EXPECT(mprotect(secret, kMiB, PROT_NONE) == 0);
    for (size_t i = 0; i < kMiB; i += 8192) {
      EXPECT(IsFilled(constant + i, 4096, 2 + i) && constant[i + 4096] == 0);
    }
    EXPECT(reinterpret_cast<int (*)()>(code)() == 42);
    EXPECT(IsFilled(moved, kMiB, 3) && moved[2 * kMiB] == 0);
    EXPECT(IsFilled(shared, kMiB / 2, 4));
    memcpy(shared + kMiB - 8, &tick, 8);
    EXPECT(memcmp(shared_again + kMiB - 8, &tick, 8) == 0);
    EXPECT(IsFilled(private_file, 8192, 5) && private_file[8192] == 0 && private_file[12287] == 0);
    EXPECT(IsFilled(private_file + 16384, 4096, 6));
    EXPECT(IsFilled(private_file + 20480, kMiB - 20480, 5 + 20480 / 8));
    EXPECT(tail[5001] == 0 && tail[5002] == 'x' && IsFilled(tail, 5000, 7));
    EXPECT(IsFilled(shared_file + 8, kMiB - 8, 9));
    uint64_t in_file = 0;
    memcpy(&in_file, shared_file, 8);
    EXPECT(tick == 0 || in_file == tick - 1);  // also what the file held at the checkpoint
    memcpy(shared_file, &tick, 8);
    EXPECT(memcmp(shared_file_part, shared_file + 4096, 8192) == 0);
    EXPECT(IsFilled(huge + (1ull << 33), 4096, 9) && huge[0] == 0 && huge[(1ull << 34) - 1] == 0);
    EXPECT(IsFilled(dropped, kMiB / 2, 10) && dropped[kMiB / 2] == 0 && dropped[kMiB - 1] == 0);
    EXPECT(IsFilled(huge_pages, 4 * kMiB, 11));
    EXPECT(DeepStack(100) != 12345);  // 800 KiB: the stack still grows
    EXPECT(shared_middle[0] == 0);
    std::string now;
    for (const char* address : with_flags) now += FlagsOf(address);
    if (now != flags) {
      Say("BAD flags: were %s", flags.c_str());
      Say("BAD flags: are  %s", now.c_str());
      return 1;
    }
    Say("tick %lu", tick);
    SleepMs(5);
  }
  Say("done");
  return 0;
}

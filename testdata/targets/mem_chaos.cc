// mem_chaos — maps, unmaps, moves, protects, drops and grows memory at random, for ever.
// Usage: mem_chaos SEED FILE [MAX_MIB]. FILE: at least 1 MiB, mapped privately; FILE.shared, as
// large, is mapped shared (another file: writes to it must not show through private mappings).
// Prints "ready" when it starts. Not self-verifying: an oracle outside reads its memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = 2u << 20;

struct Region {
  uint8_t* start;
  size_t pages;
  int prot;
  bool shared;
  bool file;  // must not grow: beyond the file's end lies SIGBUS
};

class Chaos {
 public:
  Chaos(uint64_t seed, int file, int shared_file, size_t max_pages)
      : random_(seed), file_(file), shared_file_(shared_file), max_pages_(max_pages) {}

  void Step() {
    switch (Pick(16)) {
      case 0: MapAnonymous(); break;
      case 1: MapFile(); break;
      case 2: Unmap(); break;
      case 3: Move(); break;
      case 4: Protect(); break;
      case 5: Drop(MADV_DONTNEED); break;
      case 6: Drop(MADV_FREE); break;
      case 7: GrowHeap(); break;
      case 8: Replace(); break;
      case 9: MapHuge(); break;
      case 10: Resize(); break;
      case 11: PunchShared(); break;
      case 12: Advise(); break;
      default: Scribble(); break;
    }
  }

 private:
  size_t Pick(size_t n) { return random_() % n; }

  Region* Any() { return regions_.empty() ? nullptr : &regions_[Pick(regions_.size())]; }

  void Forget(Region* region) {
    *region = regions_.back();
    regions_.pop_back();
  }

  size_t Total() const {
    size_t total = 0;
    for (const Region& region : regions_) total += region.pages;
    return total;
  }

  void Keep(void* at, size_t pages, bool shared, bool file) {
    if (at == MAP_FAILED) return;
    regions_.push_back({static_cast<uint8_t*>(at), pages, PROT_READ | PROT_WRITE, shared, file});
  }

  void MapAnonymous() {
    const size_t pages = 1 + Pick(200);
    if (Total() + pages > max_pages_) return Unmap();
    const bool shared = Pick(6) == 0;
    Keep(mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE,
              MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0),
         pages, shared, false);
    ScribbleOn(regions_.back(), 20);
  }

  void MapHuge() {
    if (Total() + kHugePage / kPage > max_pages_) return Unmap();
    void* at = mmap(nullptr, 2 * kHugePage, PROT_NONE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (at == MAP_FAILED) return;
    auto* aligned = reinterpret_cast<uint8_t*>(
        (reinterpret_cast<uintptr_t>(at) + kHugePage - 1) & ~(kHugePage - 1));
    mprotect(aligned, kHugePage, PROT_READ | PROT_WRITE);
    madvise(aligned, kHugePage, MADV_HUGEPAGE);
    aligned[Pick(kHugePage)] = 1;
    uint8_t* end = static_cast<uint8_t*>(at) + 2 * kHugePage;
    if (aligned > at) munmap(at, aligned - static_cast<uint8_t*>(at));
    if (end > aligned + kHugePage) munmap(aligned + kHugePage, end - aligned - kHugePage);
    Keep(aligned, kHugePage / kPage, false, false);
  }

  void MapFile() {
    const size_t pages = 1 + Pick(64);
    const bool shared = Pick(4) == 0;
    Keep(mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE,
              shared ? shared_file_ : file_, Pick(128) * kPage),
         pages, shared, true);
  }

  void Unmap() {
    Region* region = Any();
    if (region == nullptr) return;
    // A part of it, or all.
    const size_t pages = Pick(2) ? region->pages : 1 + Pick(region->pages);
    munmap(region->start, pages * kPage);
    region->start += pages * kPage;
    region->pages -= pages;
    if (region->pages == 0) Forget(region);
  }

  void Move() {
    Region* region = Any();
    if (region == nullptr) return;
    void* to = mmap(nullptr, region->pages * kPage, PROT_NONE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (to == MAP_FAILED) return;
    void* at = mremap(region->start, region->pages * kPage, region->pages * kPage,
                      MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (at != MAP_FAILED) {
      region->start = static_cast<uint8_t*>(at);
    } else {
      munmap(to, region->pages * kPage);
    }
  }

  void Resize() {
    Region* region = Any();
    if (region == nullptr || region->shared || region->file) return;
    const size_t pages = 1 + Pick(250);
    if (Total() + pages > max_pages_) return;
    void* at = mremap(region->start, region->pages * kPage, pages * kPage, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) return;
    region->start = static_cast<uint8_t*>(at);
    region->pages = pages;
  }

  void Protect() {
    Region* region = Any();
    if (region == nullptr) return;
    constexpr int kProts[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                              PROT_READ | PROT_WRITE};
    const int prot = kProts[Pick(4)];
    if (mprotect(region->start, region->pages * kPage, prot) == 0) region->prot = prot;
  }

  void Drop(int advice) {
    Region* region = Any();
    if (region == nullptr) return;
    const size_t first = Pick(region->pages);
    madvise(region->start + first * kPage, (1 + Pick(region->pages - first)) * kPage, advice);
  }

  void PunchShared() {
    for (Region& region : regions_) {
      if (!region.shared || region.prot != (PROT_READ | PROT_WRITE)) continue;
      madvise(region.start, (1 + Pick(region.pages)) * kPage, MADV_REMOVE);
      return;
    }
  }

  // As an allocator that marks what is free: not to be saved, and wanted again a moment later. (Whole
  // regions: mremap of a region of two mappings may stop half-way.)
  void Advise() {
    Region* region = Any();
    if (region == nullptr) return;
    madvise(region->start, region->pages * kPage, Pick(3) == 0 ? MADV_DONTDUMP : MADV_DODUMP);
  }

  // The identity trap: another mapping, same place, between two epochs.
  void Replace() {
    Region* region = Any();
    if (region == nullptr) return;
    void* at = mmap(region->start, region->pages * kPage, PROT_READ | PROT_WRITE,
                    MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) return;
    region->prot = PROT_READ | PROT_WRITE;
    region->shared = region->file = false;
    if (Pick(2)) ScribbleOn(*region, 3);
  }

  void GrowHeap() {
    if (heap_pages_ > 512) {
      if (sbrk(-static_cast<intptr_t>(heap_pages_ / 2 * kPage)) == reinterpret_cast<void*>(-1)) return;
      heap_pages_ -= heap_pages_ / 2;
      return;
    }
    const size_t pages = 1 + Pick(32);
    auto* at = static_cast<uint8_t*>(sbrk(pages * kPage));
    if (at == reinterpret_cast<uint8_t*>(-1)) return;
    heap_pages_ += pages;
    for (size_t i = 0; i < pages; i += 2) at[i * kPage + Pick(kPage)] = random_();
  }

  void Scribble() {
    if (Region* region = Any()) ScribbleOn(*region, 1 + Pick(40));
  }

  void ScribbleOn(const Region& region, size_t times) {
    if (region.prot != (PROT_READ | PROT_WRITE)) return;
    for (size_t i = 0; i < times; ++i) {
      uint8_t* page = region.start + Pick(region.pages) * kPage;
      if (Pick(10) == 0) {
        memset(page, 0, kPage);  // A zero page with a frame of its own.
      } else {
        const uint64_t value = random_();
        memcpy(page + Pick(kPage / 8) * 8, &value, 8);
      }
    }
  }

  std::mt19937_64 random_;
  const int file_;
  const int shared_file_;
  const size_t max_pages_;
  std::vector<Region> regions_;
  size_t heap_pages_ = 0;
};

int OpenMebibyte(const char* path) {
  const int file = open(path, O_RDWR);
  struct stat facts;
  return file >= 0 && fstat(file, &facts) == 0 && facts.st_size >= (1 << 20) ? file : -1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int file = OpenMebibyte(argv[2]);
  const int shared_file = OpenMebibyte((std::string(argv[2]) + ".shared").c_str());
  if (file < 0 || shared_file < 0) return 2;
  const size_t max_mib = argc > 3 ? strtoull(argv[3], nullptr, 10) : 24;
  Chaos chaos(strtoull(argv[1], nullptr, 10), file, shared_file, (max_mib << 20) / kPage);
  puts("ready");
  fflush(stdout);
  for (;;) chaos.Step();
}

// rt_reservation — 16 TiB of MAP_NORESERVE address space of which a few thousand scattered pages exist.
// Usage: rt_reservation PROGRESS_FILE
//
// Pages are written, verified, dropped and come up again at other places. All of these were touched at
// the start, so that the page tables of this program do not grow by itself. Beside them lies as much
// address space with PROT_NONE.
#include <sys/mman.h>

#include <vector>

#include "rt_common.h"

namespace {

constexpr uint64_t kSpan = uint64_t{16} << 40;
constexpr uint64_t kPage = 4096;
constexpr size_t kPlaces = 2000;

void Write(uint8_t* base, uint64_t place, uint64_t seed) {
  auto* words = reinterpret_cast<volatile uint64_t*>(base + place);
  for (uint64_t i = 0; i < kPage / 8; ++i) words[i] = Mix(seed + i);
}

bool Right(const uint8_t* base, uint64_t place, uint64_t seed) {
  auto* words = reinterpret_cast<const volatile uint64_t*>(base + place);
  for (uint64_t i = 0; i < kPage / 8; ++i) {
    if (words[i] != Mix(seed + i)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Progress progress(argv[1]);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* mapped = mmap(nullptr, kSpan, PROT_READ | PROT_WRITE, flags, -1, 0);
  void* none = mmap(nullptr, kSpan, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED || none == MAP_FAILED) progress.Bad("mmap");
  madvise(mapped, kSpan, MADV_NOHUGEPAGE);
  uint8_t* const base = static_cast<uint8_t*>(mapped);
  struct Place {
    uint64_t offset, seed;  // seed 0: dropped
  };
  std::vector<Place> places;
  for (uint64_t i = 0; i < kPlaces; ++i) {
    places.push_back({(i * (kSpan / kPage / kPlaces) + Mix(i) % 1000) * kPage, i + 1});
    Write(base, places[i].offset, places[i].seed);
  }
  for (uint64_t step = 1; !progress.StopRequested(); ++step) {
    for (uint64_t i = 0; i < 50; ++i) {
      const Place& place = places[(step * 50 + i) % kPlaces];
      if (place.seed == 0 ? base[place.offset + 8] != 0 : !Right(base, place.offset, place.seed)) {
        progress.Bad(place.seed == 0 ? "dropped page" : "page");
      }
    }
    Place& place = places[Mix(step) % kPlaces];
    if (step % 4 == 0) {
      madvise(base + place.offset, kPage, MADV_DONTNEED);
      place.seed = 0;
    } else if (step % 4 == 2) {
      place.seed = kPlaces + step;
      Write(base, place.offset, place.seed);
    }
    progress.Report(step);
    usleep(2'000);
  }
  return 0;
}

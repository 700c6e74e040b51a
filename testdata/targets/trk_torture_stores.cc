// What the program writes by itself.
#include <alloca.h>
#include <immintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "testdata/targets/trk_torture.h"

namespace torture {

void FillPattern(char* to, uint64_t bytes, uint64_t seed) {
  Random random(seed);
  uint64_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const uint64_t x = random();
    std::memcpy(to + i, &x, 8);
  }
  for (; i < bytes; ++i) to[i] = static_cast<char>(seed);
}

namespace {

// Any size, any alignment, now and then across a page's end.
bool Poke(Worker& w) {
  const Piece piece = w.Noted(w.Any(1));
  const uint64_t value = w.random();
  const uint64_t size = 1 + w.random.Pick(8);
  char* to = piece.at + (w.random.OneIn(4) ? kPage - w.random.Pick(size) - 1 : w.random.Pick(kPage));
  for (uint64_t i = 0; i < size; ++i) {
    *const_cast<volatile char*>(to + i) = static_cast<char>(value >> (8 * i));
  }
  return true;
}

bool Fill(Worker& w) {
  const Piece piece = w.Noted(w.Any(w.random.OneIn(8) ? 600 : 12));
  for (uint64_t i = 0; i < piece.pages; ++i) {
    FillPattern(piece.at + i * kPage, kPage, w.random());
  }
  return true;
}

// Equal pages, for KSM; zeros, which are content too.
bool FillEqual(Worker& w) {
  const Piece piece = w.Noted(w.Any(24));
  const int byte = w.random.Pick(3);
  for (uint64_t i = 0; i < piece.pages; ++i) std::memset(piece.at + i * kPage, byte, kPage);
  return true;
}

bool Atomics(Worker& w) {
  const Piece piece = w.Noted(w.Any(4));
  for (uint64_t i = 0; i < piece.pages; ++i) {
    auto* word = reinterpret_cast<uint64_t*>(piece.at + i * kPage + w.random.Pick(510) * 8);
    __atomic_fetch_add(word, w.random(), __ATOMIC_SEQ_CST);
    uint64_t expected = 0;
    // A cmpxchg that fails writes the old value back: a write to the page table, none to the bytes.
    __atomic_compare_exchange_n(word + 1, &expected, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  }
  return true;
}

bool NonTemporal(Worker& w) {
  const Piece piece = w.Noted(w.Any(2));
  auto* to = reinterpret_cast<long long*>(piece.at);
  for (uint64_t i = 0; i < piece.bytes() / 8; i += 1 + w.random.Pick(16)) {
    _mm_stream_si64(to + i, static_cast<long long>(w.random()));
  }
  _mm_sfence();
  return true;
}

bool Copy(Worker& w) {
  const Piece to = w.Noted(w.Any(8));
  const Piece from = w.Any(8);
  std::memmove(to.at + w.random.Pick(64), from.at, std::min(to.pages, from.pages) * kPage - 64);
  return true;
}

bool Read(Worker& w) {
  const Piece piece = w.Noted(w.Any());
  for (uint64_t i = 0; i < piece.pages; ++i) {
    (void)*const_cast<volatile char*>(piece.at + i * kPage);
  }
  return true;
}

// Deep into the stack, which grows where it is the main thread's.
__attribute__((noinline)) char Descend(uint64_t depth, uint64_t seed) {
  volatile char frame[3000];
  frame[seed % sizeof frame] = static_cast<char>(seed);
  if (depth == 0) return frame[0];
  return static_cast<char>(Descend(depth - 1, seed * 31) + frame[seed % sizeof frame]);
}
bool Stack(Worker& w) {
  Descend(w.random.OneIn(6) ? w.random.Pick(600) : w.random.Pick(30), w.random());
  return true;
}

// Nobody else here moves the break: malloc is not used once the threads run.
bool Break(Worker& w) {
  static std::atomic_flag busy = ATOMIC_FLAG_INIT;
  static char* lowest = static_cast<char*>(sbrk(0));
  if (busy.test_and_set()) return false;
  char* top = static_cast<char*>(sbrk(0));
  const uint64_t grown = (top - lowest) / kPage;
  bool ok;
  if (grown > 200 || (grown > 0 && w.random.OneIn(3))) {
    ok = sbrk(-static_cast<intptr_t>((1 + w.random.Pick(grown)) * kPage)) != reinterpret_cast<void*>(-1);
  } else {
    const uint64_t pages = 1 + w.random.Pick(30);
    ok = sbrk(pages * kPage) != reinterpret_cast<void*>(-1);
    for (uint64_t i = 0; ok && i < pages; i += 1 + w.random.Pick(3)) {
      FillPattern(top + i * kPage, 64, w.random());
    }
  }
  busy.clear();
  return ok;
}

bool Nap(Worker& w) {
  if (w.naps) usleep(w.random.Pick(1500));
  return true;
}

}  // namespace

void AddStores(std::vector<Operation>* all) {
  all->insert(all->end(), {{"poke", 40, Poke},
                           {"fill", 14, Fill},
                           {"fill_equal", 6, FillEqual},
                           {"atomics", 6, Atomics},
                           {"non_temporal", 4, NonTemporal},
                           {"copy", 6, Copy},
                           {"read", 6, Read},
                           {"stack", 4, Stack},
                           {"brk", 4, Break},
                           {"nap", 14, Nap}});
}

}  // namespace torture

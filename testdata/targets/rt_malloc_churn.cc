// rt_malloc_churn — three threads that allocate, fill, verify and free blocks of all sizes.
// Usage: rt_malloc_churn PROGRESS_FILE
//
// Built with AddressSanitizer it has terabytes of reserved shadow memory, and a runtime that would
// notice a wrong byte in its own.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "rt_common.h"

namespace {

constexpr int kThreads = 3;
constexpr size_t kSlots = 1500;
std::atomic<bool> stop{false};
std::array<std::atomic<uint64_t>, kThreads> steps;

struct Block {
  uint8_t* bytes = nullptr;
  size_t size = 0;
  uint64_t seed = 0;
};

void Fill(Block* block, uint64_t seed) {
  block->seed = seed;
  block->size = 16 + Mix(seed) % ((seed % 64 == 0) ? 200'000 : 2'000);
  block->bytes = static_cast<uint8_t*>(malloc(block->size));
  for (size_t i = 0; i < block->size; ++i) block->bytes[i] = static_cast<uint8_t>(Mix(seed + i / 64) >> (i % 8));
}

bool Right(const Block& block) {
  for (size_t i = 0; i < block.size; ++i) {
    if (block.bytes[i] != static_cast<uint8_t>(Mix(block.seed + i / 64) >> (i % 8))) return false;
  }
  return true;
}

void Churn(int thread, const Progress& progress) {
  std::vector<Block> blocks(kSlots);
  for (size_t i = 0; i < kSlots; ++i) Fill(&blocks[i], i + 1);
  for (uint64_t step = 1; !stop; ++step) {
    for (int i = 0; i < 40; ++i) {
      const uint64_t dice = Mix(step * 64 + i + thread);
      Block& block = blocks[dice % kSlots];
      if (!Right(block)) progress.Bad("block of thread " + std::to_string(thread));
      // A window that moves on slowly: an epoch finds most blocks unchanged.
      if ((dice >> 32) % 4 != 0) continue;
      Block& victim = blocks[(step / 64 * 8 + dice % 8) % kSlots];
      if (!Right(victim)) progress.Bad("victim of thread " + std::to_string(thread));
      free(victim.bytes);
      Fill(&victim, dice | 1);
    }
    steps[thread] = step;
    usleep(500);
  }
  for (Block& block : blocks) {
    if (!Right(block)) progress.Bad("at the end");
    free(block.bytes);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Progress progress(argv[1]);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(Churn, i, std::cref(progress));
  while (!progress.StopRequested()) {
    uint64_t least = UINT64_MAX;
    for (const auto& step : steps) least = std::min<uint64_t>(least, step);
    progress.Report(least);
    usleep(5'000);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// gc_options.h — what Store::CollectGarbage is asked and what it says.
#ifndef INCR_CKPT_STORE_GC_OPTIONS_H_
#define INCR_CKPT_STORE_GC_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "store/gc_policy.h"

namespace incr {

struct GcProgress {
  std::string step;  // "collapsing", "marking", "sweeping", "copying", "waiting for readers", ...
  uint64_t done = 0;
  uint64_t total = 0;  // 0: not known
};

struct GcOptions {
  GcPolicy policy;   // must not be empty
  std::string job;   // "": every job
  bool dry_run = false;
  bool recompress_zstd = false;  // bodies that are moved anyway
  // Beyond packs under half live, rewrite others until little is wasted, and compact the database.
  bool thorough = true;
  int64_t reader_patience_us = 10'000'000;  // how long to wait for readers of what is to be deleted
  size_t max_filter_bytes = 256u << 20;     // the bound on memory that grows with the store
  // Epochs (job, number) that somebody goes on from: kept. Called several times, holding locks.
  std::function<std::vector<std::pair<std::string, uint64_t>>()> in_use;
  // An error ends gc there and comes back; it can be run again.
  std::function<absl::Status(const GcProgress&)> progress;
};

struct GcEpoch {
  std::string job;
  uint64_t epoch = 0;
  int64_t time_us = 0;
  std::string rule;  // "": it goes
};

struct GcResult {
  std::vector<GcEpoch> epochs;  // of the jobs in question, by job and number
  uint64_t epochs_kept = 0, epochs_dropped = 0;
  uint64_t epochs_rewritten = 0;  // their manifests
  uint64_t pages_kept = 0, pages_dropped = 0;  // in the index
  uint64_t packs_deleted = 0;    // those rewritten included
  uint64_t packs_rewritten = 0;
  uint64_t bytes_before = 0, bytes_after = 0;  // of the store's files; dry run: estimated
  // Packs that nothing refers to, but that somebody still reads (or that a damaged page holds back).
  uint64_t packs_waiting = 0, bytes_waiting = 0;
  std::vector<std::string> warnings;
};

}  // namespace incr

#endif  // INCR_CKPT_STORE_GC_OPTIONS_H_

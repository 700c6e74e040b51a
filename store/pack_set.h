// pack_set.h — the packs of a store that is open for writing.
//
// Recover() makes the directory agree with what is committed: a longer pack is cut, a
// pack that the database does not know is removed (nothing can refer to it). A shorter or missing
// one is damage: it stays as it is, and no page in the missing part counts as known. A symbolic
// link in the place of a known pack is refused: cutting would reach a file outside the store.
//
// Thread-safe.
#ifndef INCR_CKPT_STORE_PACK_SET_H_
#define INCR_CKPT_STORE_PACK_SET_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "store/pack_writer.h"

namespace incr {

class PackSet {
 public:
  // `committed`: durable length by pack.
  static absl::StatusOr<std::unique_ptr<PackSet>> Recover(
      const std::string& directory, uint64_t store_tag, uint64_t pack_bytes,
      const std::map<uint32_t, uint64_t>& committed, FileIo io = FileIo());

  // A writer for one epoch; with a pack to go on with if there is one.
  absl::StatusOr<std::unique_ptr<PackWriter>> CheckOut();
  // After Finish() or Abandon().
  void CheckIn(std::unique_ptr<PackWriter> writer);
  // Finish() succeeded and the index refers to these bytes.
  void Committed(const std::vector<PackLength>& lengths);

  // For gc: nothing is appended to `pack` from now on. False, and nothing changes, if an epoch in the
  // making may append to it, or if it is longer than `bytes`.
  bool Retire(uint32_t pack, uint64_t bytes);
  // They are deleted: no page in them is known. Returns what was good of them.
  std::vector<PackLength> Forget(const std::vector<uint32_t>& packs);

  // False if the file does not reach that far: such a page must be stored anew.
  bool IsIntact(const PageLocation& location) const;

 private:
  PackSet() = default;
  absl::StatusOr<uint32_t> NewPackId();

  PackWriter::Settings settings_;
  mutable absl::Mutex mutex_;
  uint32_t last_pack_ = 0;
  std::map<uint32_t, uint64_t> good_bytes_;
  std::vector<PackFile> open_ended_;  // have room for more
  std::vector<std::unique_ptr<PackWriter>> idle_;
  std::map<const PackWriter*, uint32_t> busy_;  // checked out, and the pack it began with
  std::set<uint32_t> retired_;
};

// Names in `directory` that are packs, ascending.
absl::StatusOr<std::vector<uint32_t>> ListPacks(const std::string& directory);

}  // namespace incr

#endif  // INCR_CKPT_STORE_PACK_SET_H_

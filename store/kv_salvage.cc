#include "store/kv_salvage.h"

#include <fcntl.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/rocks_files.h"

namespace incr {
namespace {

namespace fs = std::filesystem;

constexpr int kMostBadBlocks = 10'000;  // of one file

std::optional<KvTable> TableNamed(const std::string& name) {
  for (int i = 0; i < kKvTables; ++i) {
    if (KvTableName(static_cast<KvTable>(i)) == name) return static_cast<KvTable>(i);
  }
  return std::nullopt;
}

// Keys as numbers of a fixed length, to find the end of a damaged block by bisection.
constexpr size_t kNumberBytes = 96;  // longer than any key of ours
using Number = std::vector<uint8_t>;  // big-endian

Number FromKey(absl::string_view key) {
  Number number(kNumberBytes, 0);
  std::copy_n(key.begin(), std::min(key.size(), kNumberBytes), number.begin());
  return number;
}
std::string ToKey(const Number& number) { return {number.begin(), number.end()}; }

// number + 2^bit; all ones if that is too much.
Number Plus(Number number, size_t bit) {
  size_t at = kNumberBytes - 1 - bit / 8;
  unsigned carry = 1u << bit % 8;
  for (;; --at) {
    carry += number[at];
    number[at] = carry & 0xff;
    carry >>= 8;
    if (carry == 0) return number;
    if (at == 0) return Number(kNumberBytes, 0xff);
  }
}

Number Middle(const Number& a, const Number& b) {
  Number sum(kNumberBytes);
  unsigned carry = 0;
  for (size_t i = kNumberBytes; i-- > 0;) {
    carry += a[i] + b[i];
    sum[i] = carry & 0xff;
    carry >>= 8;
  }
  for (size_t i = 0; i < kNumberBytes; ++i) {
    const unsigned both = carry << 8 | sum[i];
    sum[i] = both / 2;
    carry = both & 1;
  }
  return sum;
}

// An iterator at the first key >= `key`; null if a damaged block is in the way. A new one each time: on one that
// has met a damaged block a second Seek() into that block reports no error.
std::unique_ptr<rocksdb::Iterator> SeekTo(rocksdb::SstFileReader& reader, const std::string& key) {
  std::unique_ptr<rocksdb::Iterator> it(reader.NewIterator(rocksdb::ReadOptions()));
  it->Seek(key);
  return it->status().ok() ? std::move(it) : nullptr;
}

// The first key that can be read behind the damaged block that follows `last`. Steps of doubling length find
// one, bisection the first. Null: there is none.
std::unique_ptr<rocksdb::Iterator> PassDamage(rocksdb::SstFileReader& reader, absl::string_view last) {
  Number bad = FromKey(last), good;
  for (size_t bit = 0; good.empty(); ++bit) {
    if (bit == 8 * kNumberBytes) return nullptr;
    const Number next = Plus(FromKey(last), bit);
    (SeekTo(reader, ToKey(next)) != nullptr ? good : bad) = next;
  }
  for (Number middle = Middle(bad, good); middle != bad; middle = Middle(bad, good)) {
    (SeekTo(reader, ToKey(middle)) != nullptr ? good : bad) = middle;
  }
  // Keys that end in zeros are smaller than the number that they stand for: from the shortest on.
  const std::string key = ToKey(good);
  std::unique_ptr<rocksdb::Iterator> it;
  for (size_t length = key.find_last_not_of('\0') + 1; it == nullptr && length <= key.size(); ++length) {
    it = SeekTo(reader, key.substr(0, length));
  }
  return it != nullptr && it->Valid() ? std::move(it) : nullptr;
}

// What cannot be read is zeros in the copy: RocksDB's repair goes on behind it.
absl::Status CopyReadable(FileIo io, const std::string& from, const std::string& to) {
  constexpr size_t kPiece = 4096;
  INCR_ASSIGN_OR_RETURN(const ScopedFd in, io.Open(from, O_RDONLY));
  INCR_ASSIGN_OR_RETURN(const ScopedFd out, io.Open(to, O_WRONLY | O_CREAT | O_EXCL, 0600));
  struct stat info;
  if (::fstat(in.get(), &info) != 0) return ErrnoStatus(absl::StrCat("fstat(", from, ")"));
  const uint64_t size = info.st_size;
  for (uint64_t at = 0; at < size;) {
    char piece[kPiece] = {};
    const size_t bytes = std::min<uint64_t>(kPiece, size - at);
    // A disk that fails once may not fail again.
    for (int i = 0; i < 2 && !io.PreadExactly(in.get(), piece, bytes, at, from).ok(); ++i) {
      std::fill_n(piece, bytes, '\0');
    }
    INCR_RETURN_IF_ERROR(io.PwriteExactly(out.get(), piece, bytes, at, to));
    at += bytes;
  }
  return absl::OkStatus();
}

absl::Status Copy(FileIo io, const fs::path& from, const fs::path& to) {
  // A table file never changes; a log is cut and CURRENT is replaced.
  if (from.extension() == ".sst") {
    const absl::Status linked = io.Link(from, to);
    if (linked.ok()) return linked;
  }
  return CopyReadable(io, from, to);
}

// The entries of a directory; none if it is not there. An error is no damage: what is left out of a salvage is lost.
absl::StatusOr<std::vector<fs::path>> ListDirectory(const std::string& path) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator entry(path, error);
  if (error == std::errc::no_such_file_or_directory) return entries;
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) entries.push_back(entry->path());
  if (error) return ErrnoStatus(error.value(), absl::StrCat("readdir(", path, ")"));
  return entries;
}

absl::Status CopyFiles(FileIo io, const std::string& path, const std::string& copy) {
  INCR_RETURN_IF_ERROR(io.MakeDirectory(copy));
  INCR_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListDirectory(path));
  bool any = false;
  for (const fs::path& file : files) {
    std::error_code error;
    const fs::file_status is = fs::symlink_status(file, error);
    if (error) return ErrnoStatus(error.value(), absl::StrCat("lstat(", file.string(), ")"));
    if (!fs::is_regular_file(is)) continue;
    any |= file.extension() == ".sst" || file.extension() == ".log";
    INCR_RETURN_IF_ERROR(Copy(io, file, fs::path(copy) / file.filename()));
  }
  if (any) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, " has no files of a database"));
}

// Can be no key of ours: begins as no job does, and is too short for a page.
constexpr absl::string_view kSeed("\0salvage", 8);

// RocksDB's repair learns from table files which tables there are, and passes over what logs have of others: in a young
// database, everything. So each table gets a file of its own, with a row that is none.
absl::Status AddTableFiles(FileIo io, const std::string& copy) {
  const std::string seed = copy + ".seed";
  {
    INCR_ASSIGN_OR_RETURN(const std::unique_ptr<KvDb> db, KvDb::Open(seed, KvDb::Mode::kCreate, {io}));
    KvBatch batch;
    for (int i = 0; i < kKvTables; ++i) batch.Add(static_cast<KvTable>(i), std::string(kSeed), "");
    INCR_RETURN_IF_ERROR(db->Write(batch, /*sync=*/false));
    INCR_RETURN_IF_ERROR(db->Compact());
  }
  INCR_ASSIGN_OR_RETURN(const std::vector<fs::path> copied, ListDirectory(copy));
  INCR_ASSIGN_OR_RETURN(const std::vector<fs::path> made, ListDirectory(seed));
  uint64_t last = 0, number;
  for (const fs::path& file : copied) {
    if (absl::SimpleAtoi(file.stem().string(), &number)) last = std::max(last, number);
  }
  for (const fs::path& file : made) {
    if (file.extension() != ".sst") continue;
    INCR_RETURN_IF_ERROR(io.Rename(file, absl::StrCat(copy, "/", absl::Dec(++last, absl::kZeroPad6), ".sst")));
  }
  return io.RemoveTree(seed);
}

absl::Status RemoveSeeds(KvDb& db) {
  KvBatch batch;
  for (int i = 0; i < kKvTables; ++i) batch.Delete(static_cast<KvTable>(i), std::string(kSeed));
  return db.Write(batch, /*sync=*/false);
}

// What RocksDB's repair gave up, as far as its readable rows are not in `db` already.
absl::Status TakeFromLostFiles(FileIo io, const std::string& copy, KvDb& db) {
  INCR_ASSIGN_OR_RETURN(const std::vector<fs::path> files, ListDirectory(copy + "/lost"));
  for (const fs::path& file : files) {
    if (file.extension() != ".sst") continue;
    KvBatch batch;
    const auto flush = [&] {
      const absl::Status status = batch.puts().empty() ? absl::OkStatus() : db.Write(batch, /*sync=*/false);
      batch = KvBatch();
      return status;
    };
    absl::Status full;
    const absl::Status read =
        ReadTableFile(file, [&](KvTable table, absl::string_view key, absl::string_view value) {
          if (table == KvTable::kPages || db.Get(table, key).ok()) return absl::OkStatus();
          batch.Add(table, std::string(key), std::string(value));
          if (batch.bytes() > (4u << 20)) full = flush();
          return full;
        }, io);
    INCR_RETURN_IF_ERROR(full);
    (void)read;  // A file of which nothing can be read is lost indeed.
    INCR_RETURN_IF_ERROR(flush());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTableFile(
    const std::string& path,
    absl::FunctionRef<absl::Status(KvTable table, absl::string_view key, absl::string_view value)> row, FileIo io) {
  const std::unique_ptr<rocksdb::Env> env = NewRocksEnv(io);
  rocksdb::Options options;
  options.env = env.get();
  rocksdb::SstFileReader reader(options);
  const rocksdb::Status opened = reader.Open(path);
  if (!opened.ok()) return absl::DataLossError(absl::StrCat(path, ": ", opened.ToString()));
  const std::shared_ptr<const rocksdb::TableProperties> properties = reader.GetTableProperties();
  if (properties == nullptr) return absl::DataLossError(absl::StrCat(path, ": it has no properties"));
  const std::optional<KvTable> table = TableNamed(properties->column_family_name);
  if (!table.has_value()) return absl::DataLossError(absl::StrCat(path, ": of no table of ours"));
  std::unique_ptr<rocksdb::Iterator> it(reader.NewIterator(rocksdb::ReadOptions()));
  std::string last;
  int bad_blocks = 0;
  it->SeekToFirst();
  for (;;) {
    for (; it->Valid(); it->Next()) {
      last.assign(it->key().data(), it->key().size());
      INCR_RETURN_IF_ERROR(row(*table, last, {it->value().data(), it->value().size()}));
    }
    if (it->status().ok() || ++bad_blocks > kMostBadBlocks) return absl::OkStatus();
    it = PassDamage(reader, last);
    if (it == nullptr) return absl::OkStatus();
  }
}

absl::StatusOr<std::unique_ptr<KvDb>> SalvageDatabase(const std::string& path, const std::string& copy,
                                                      FileIo io) {
  INCR_RETURN_IF_ERROR(CopyFiles(io, path, copy));
  INCR_RETURN_IF_ERROR(AddTableFiles(io, copy));
  INCR_RETURN_IF_ERROR(KvDb::Repair(copy, io));
  INCR_ASSIGN_OR_RETURN(std::unique_ptr<KvDb> db, KvDb::Open(copy, KvDb::Mode::kCreate, {io}));
  INCR_RETURN_IF_ERROR(RemoveSeeds(*db));
  INCR_RETURN_IF_ERROR(TakeFromLostFiles(io, copy, *db));
  return db;
}

}  // namespace incr

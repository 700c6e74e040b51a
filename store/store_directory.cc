#include "store/store_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "store/checksum.h"
#include "store/pack_format.h"

namespace incr {
namespace {

static_assert(kStoreVersion == 1 && kSecretBytes == 192);

bool Exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

absl::StatusOr<std::vector<std::string>> Names(const std::string& directory) {
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return ErrnoStatus(absl::StrCat("opendir(", directory, ")"));
  std::vector<std::string> names;
  while (dirent* entry = ::readdir(dir)) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  ::closedir(dir);
  return names;
}

absl::Status MakeDirectories(FileIo io, const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string parent = path.substr(0, slash);
    if (!Exists(parent)) INCR_RETURN_IF_ERROR(io.MakeDirectory(parent));
  }
  return io.MakeDirectory(path);
}

// A store is its owner's alone: whoever else could write there could make us read and write anything.
absl::Status CheckOwner(const StorePaths& paths) {
  struct stat info;
  if (::stat(paths.root.c_str(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("stat(", paths.root, ")"));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.root, " is not an incr-ckpt store (no directory)"));
  }
  if (info.st_uid == ::geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("store ", paths.root, " belongs to user ", info.st_uid, ", not to you (user ",
                   ::geteuid(), "): use one of your own, or have it given to you (chown -R)"));
}

// RocksDB opens files by name and follows links: there must be none.
absl::Status CheckNoLinks(const StorePaths& paths) {
  std::vector<std::string> suspects = {paths.packs, paths.db};
  struct stat info;
  if (::lstat(paths.db.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    INCR_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names(paths.db));
    for (const std::string& name : names) suspects.push_back(absl::StrCat(paths.db, "/", name));
  }
  for (const std::string& path : suspects) {
    // Beside a live writer files come and go.
    if (::lstat(path.c_str(), &info) != 0 || !S_ISLNK(info.st_mode)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is a symbolic link, and none in a store is followed: put the file itself there"));
  }
  return absl::OkStatus();
}

// What a store in the making, or the daemon beside it, may have left.
bool IsOurName(absl::string_view name) {
  for (absl::string_view ours : {"secret", "secret.tmp", "FORMAT.tmp", "lock", "commits",
                                 "commits.tmp", "generation", "generation.tmp", "packs", "db"}) {
    if (name == ours) return true;
  }
  return absl::StartsWith(name, "daemon") || name == "lost+found";
}

uint64_t TagOf(absl::string_view secret) { return Checksum64(secret); }

absl::StatusOr<std::string> ReadSecret(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(std::string secret, paths.io.ReadWhole(paths.secret, 4096));
  if (secret.size() != kSecretBytes) {
    return absl::DataLossError(absl::StrCat(paths.secret, " has ", secret.size(),
                                            " bytes instead of ", kSecretBytes));
  }
  return secret;
}

std::string FormatText(uint64_t tag) {
  return absl::StrFormat("version %d\nincr-ckpt store\nsecret tag %016x\n", kStoreVersion, tag);
}

}  // namespace

StorePaths::StorePaths(std::string directory, FileIo file_io)
    : root(std::move(directory)), io(file_io) {
  while (root.size() > 1 && root.back() == '/') root.pop_back();
  format = absl::StrCat(root, "/FORMAT");
  secret = absl::StrCat(root, "/secret");
  lock = absl::StrCat(root, "/lock");
  commits = absl::StrCat(root, "/commits");
  generation = absl::StrCat(root, "/generation");
  packs = absl::StrCat(root, "/packs");
  db = absl::StrCat(root, "/db");
  repair = absl::StrCat(root, "/repair.tmp");
}

absl::StatusOr<StoreIdentity> ReadIdentity(const StorePaths& paths) {
  if (!Exists(paths.root)) {
    return absl::NotFoundError(absl::StrCat("no store at ", paths.root, ": no such directory"));
  }
  INCR_RETURN_IF_ERROR(CheckOwner(paths));
  absl::StatusOr<std::string> text = paths.io.ReadWhole(paths.format, 4096);
  if (absl::IsNotFound(text.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.root, " is not an incr-ckpt store (no FORMAT file in it)"));
  }
  INCR_RETURN_IF_ERROR(text.status());
  const std::vector<absl::string_view> lines = absl::StrSplit(*text, '\n');
  int version = 0;
  absl::string_view first = lines[0];
  if (!absl::ConsumePrefix(&first, "version ") || !absl::SimpleAtoi(first, &version) ||
      version < 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.root, " is not an incr-ckpt store (", paths.format, " reads otherwise)"));
  }
  if (version > kStoreVersion) {
    return absl::FailedPreconditionError(absl::StrCat(paths.root, " is a store of version ", version,
                                                      "; this program knows up to ", kStoreVersion,
                                                      ": use a newer incr-ckpt"));
  }
  StoreIdentity identity;
  INCR_ASSIGN_OR_RETURN(identity.secret, ReadSecret(paths));
  identity.tag = TagOf(identity.secret);
  if (*text != FormatText(identity.tag)) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.format, " and ", paths.secret, " do not belong together"));
  }
  INCR_RETURN_IF_ERROR(CheckNoLinks(paths));
  return identity;
}

absl::Status CheckNoRepairIsReady(const StorePaths& paths) {
  if (!Exists(absl::StrCat(paths.repair, "/ready"))) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("store ", paths.root, ": a repair of it was interrupted: let `incr-ckpt repair` finish it first"));
}

bool HasFormat(const StorePaths& paths) { return Exists(paths.format); }
namespace {

// The tag in the header of any pack whose header is whole.
std::optional<uint64_t> TagInPacks(const StorePaths& paths) {
  const absl::StatusOr<std::vector<std::string>> names = Names(paths.packs);
  if (!names.ok()) return std::nullopt;
  for (const std::string& name : *names) {
    const std::string path = absl::StrCat(paths.packs, "/", name);
    absl::StatusOr<ScopedFd> fd = paths.io.Open(path, O_RDONLY | O_NONBLOCK);
    uint8_t header[kPackHeaderBytes];
    if (!fd.ok() || !paths.io.PreadExactly(fd->get(), header, sizeof header, 0, path).ok()) continue;
    if (const absl::StatusOr<uint64_t> tag = PackHeaderTag(header); tag.ok()) return *tag;
  }
  return std::nullopt;
}

// The secret that has this tag and differs from `secret` in one byte at most.
std::optional<std::string> MendSecret(std::string secret, uint64_t tag) {
  if (secret.size() != kSecretBytes) return std::nullopt;
  if (TagOf(secret) == tag) return secret;
  for (char& byte : secret) {
    const char was = byte;
    for (int i = 1; i < 256; ++i) {
      byte = static_cast<char>(was ^ i);
      if (TagOf(secret) == tag) return secret;
    }
    byte = was;
  }
  return std::nullopt;
}

// A whole FORMAT of a version that we do not know: not ours to mend.
bool IsOfNewerVersion(const std::string& text) {
  int version = 0;
  const size_t line = text.find('\n');
  absl::string_view first = absl::string_view(text).substr(0, line);
  return line != std::string::npos && absl::ConsumePrefix(&first, "version ") && absl::SimpleAtoi(first, &version) &&
         version > kStoreVersion && text.find("\nincr-ckpt store\n") == line;
}

}  // namespace

absl::StatusOr<bool> RepairIdentity(const StorePaths& paths, bool dry_run) {
  if (!Exists(paths.secret) || !Exists(paths.packs)) return false;
  INCR_RETURN_IF_ERROR(CheckOwner(paths));
  INCR_RETURN_IF_ERROR(CheckNoLinks(paths));
  if (ReadIdentity(paths).ok()) return false;
  absl::StatusOr<std::string> secret = paths.io.ReadWhole(paths.secret, 4096);
  if (!secret.ok()) return false;
  const absl::StatusOr<std::string> read = paths.io.ReadWhole(paths.format, 4096);
  if (!read.ok() && !absl::IsNotFound(read.status())) return read.status();
  const std::string format = read.value_or("");
  if (IsOfNewerVersion(format)) return false;
  std::optional<uint64_t> tag = TagInPacks(paths);
  uint64_t written = 0;
  const size_t at = format.find("secret tag ");
  if (!tag.has_value() && at != std::string::npos && absl::SimpleHexAtoi(format.substr(at + 11, 16), &written)) {
    tag = written;
  }
  if (!tag.has_value()) return false;
  const std::optional<std::string> mended = MendSecret(*secret, *tag);
  if (!mended.has_value()) return false;
  if (dry_run) return true;
  if (*mended != *secret) INCR_RETURN_IF_ERROR(paths.io.WriteDurably(paths.secret, *mended));
  INCR_RETURN_IF_ERROR(WriteFormat(paths));
  return true;
}

absl::StatusOr<ScopedFd> LockForWriting(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(ScopedFd fd, paths.io.Open(paths.lock, O_RDWR | O_CREAT, 0600));
  int n;
  do {
    n = ::flock(fd.get(), LOCK_EX | LOCK_NB);
  } while (n != 0 && errno == EINTR);
  if (n != 0 && errno == EWOULDBLOCK) {
    char pid[32] = {};
    (void)!::pread(fd.get(), pid, sizeof pid - 1, 0);
    return absl::FailedPreconditionError(absl::StrCat("store ", paths.root, " is locked by process ",
                                                      absl::StripAsciiWhitespace(pid),
                                                      ", which writes to it"));
  }
  if (n != 0) return ErrnoStatus(absl::StrCat("flock(", paths.lock, ")"));
  // For that message only; a full disk is no reason to refuse.
  const std::string pid = absl::StrCat(::getpid(), "\n");
  if (::ftruncate(fd.get(), 0) == 0) (void)!::pwrite(fd.get(), pid.data(), pid.size(), 0);
  return fd;
}

absl::Status CloseToOthers(const StorePaths& paths) {
  INCR_RETURN_IF_ERROR(CheckOwner(paths));
  struct stat info;
  if (::stat(paths.root.c_str(), &info) == 0 && (info.st_mode & 07777) == 0700) {
    return absl::OkStatus();
  }
  if (::chmod(paths.root.c_str(), 0700) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("chmod(", paths.root, ")"));
}

absl::Status PrepareDirectory(const StorePaths& paths) {
  if (!Exists(paths.root)) INCR_RETURN_IF_ERROR(MakeDirectories(paths.io, paths.root));
  INCR_RETURN_IF_ERROR(CheckOwner(paths));
  if (Exists(paths.format)) return absl::OkStatus();
  INCR_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names(paths.root));
  for (const std::string& name : names) {
    if (IsOurName(name)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(paths.root, " is neither a store nor empty (", name, " is in it)"));
  }
  if (Exists(paths.packs)) {
    INCR_ASSIGN_OR_RETURN(const std::vector<std::string> packs, Names(paths.packs));
    if (!packs.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          paths.root, " was a store, but its FORMAT file is gone: put it back before writing"));
    }
  }
  return absl::OkStatus();
}

absl::Status CreateParts(const StorePaths& paths) {
  if (!Exists(paths.secret)) {
    std::string secret(kSecretBytes, '\0');
    for (size_t done = 0; done < secret.size();) {
      const ssize_t n = ::getrandom(secret.data() + done, secret.size() - done, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("getrandom");
      done += n;
    }
    INCR_RETURN_IF_ERROR(paths.io.WriteDurably(paths.secret, secret));
  }
  INCR_RETURN_IF_ERROR(paths.io.MakeDirectory(paths.packs));
  INCR_RETURN_IF_ERROR(paths.io.MakeDirectory(paths.db));
  return paths.io.SyncDirectory(paths.root);
}

absl::Status WriteFormat(const StorePaths& paths) {
  INCR_ASSIGN_OR_RETURN(const std::string secret, ReadSecret(paths));
  INCR_RETURN_IF_ERROR(paths.io.WriteDurably(paths.format, FormatText(TagOf(secret))));
  const size_t slash = paths.root.rfind('/');
  return paths.io.SyncDirectory(slash == std::string::npos ? "."
                                                           : paths.root.substr(0, slash + 1));
}

}  // namespace incr

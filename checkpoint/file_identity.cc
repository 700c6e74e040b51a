#include "checkpoint/file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace incr {

bool IdentityAt(const std::string& path, const std::string& recorded, pb::FileIdentity* identity) {
  struct statx found{};
  if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_BTIME, &found) !=
      0) {
    return false;
  }
  identity->set_path(recorded);
  identity->set_dev(makedev(found.stx_dev_major, found.stx_dev_minor));
  identity->set_ino(found.stx_ino);
  identity->set_size(found.stx_size);
  identity->set_mtime_ns(found.stx_mtime.tv_sec * 1'000'000'000LL + found.stx_mtime.tv_nsec);
  identity->set_change_ns(found.stx_ctime.tv_sec * 1'000'000'000LL + found.stx_ctime.tv_nsec);
  identity->set_mode(found.stx_mode);
  if ((found.stx_mask & STATX_BTIME) != 0) {
    identity->set_birth_ns(found.stx_btime.tv_sec * 1'000'000'000LL + found.stx_btime.tv_nsec);
  }
  return true;
}

}  // namespace incr

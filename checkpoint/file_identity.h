// file_identity.h — what a restore compares to know a file again.
#ifndef INCR_CKPT_CHECKPOINT_FILE_IDENTITY_H_
#define INCR_CKPT_CHECKPOINT_FILE_IDENTITY_H_

#include <string>

#include "proto/image.pb.h"

namespace incr {

// The identity of what `path` leads to now; false if it leads nowhere. `recorded` becomes the
// identity's path (`path` may be a link of /proc).
bool IdentityAt(const std::string& path, const std::string& recorded, pb::FileIdentity* identity);

// The same device and inode.
inline bool SameFile(const pb::FileIdentity& a, const pb::FileIdentity& b) {
  return a.dev() == b.dev() && a.ino() == b.ino();
}

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_FILE_IDENTITY_H_

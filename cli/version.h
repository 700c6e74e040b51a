// version.h — the version that `incr-ckpt --version` and /v1/version tell.
#ifndef INCR_CKPT_CLI_VERSION_H_
#define INCR_CKPT_CLI_VERSION_H_

namespace incr {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace incr

#endif  // INCR_CKPT_CLI_VERSION_H_

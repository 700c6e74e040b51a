#include "restore/pipe_content.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace incr {
namespace {

constexpr uint32_t kMaxCapacity = 1u << 30;  // fs.pipe-max-size is 1 MiB by default

absl::Status WritePart(const FileBuilder& builder, const pb::OpenFile& file, int writer,
                       const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(writer, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return builder.RefuseErrno(file, "write(what was in the pipe)");
    data += n;
    size -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status WritePackets(const FileBuilder& builder, const pb::OpenFile& file, int writer) {
  const int flags = ::fcntl(writer, F_GETFL);
  if (flags < 0 || ::fcntl(writer, F_SETFL, flags | O_DIRECT) != 0) {
    return builder.RefuseErrno(file, "F_SETFL(O_DIRECT)");
  }
  const std::string& content = file.pipe().content();
  size_t done = 0;
  for (uint32_t size : file.pipe().packet_sizes()) {
    if (size > content.size() - done) return builder.Malformed(file, "has bad packet sizes");
    INCR_RETURN_IF_ERROR(WritePart(builder, file, writer, content.data() + done, size));
    done += size;
  }
  if (done != content.size()) return builder.Malformed(file, "has bad packet sizes");
  if (::fcntl(writer, F_SETFL, flags) != 0) return builder.RefuseErrno(file, "F_SETFL");
  return absl::OkStatus();
}

}  // namespace

absl::Status FillPipe(const FileBuilder& builder, const pb::OpenFile& file, int writer) {
  const pb::Pipe& pipe = file.pipe();
  if (pipe.capacity() > kMaxCapacity || pipe.content().size() > kMaxCapacity) {
    return builder.Malformed(file, "has an impossible pipe capacity");
  }
  const int current = ::fcntl(writer, F_GETPIPE_SZ);
  if (pipe.capacity() != 0 && current != static_cast<int>(pipe.capacity()) &&
      ::fcntl(writer, F_SETPIPE_SZ, static_cast<int>(pipe.capacity())) < 0) {
    return builder.RefuseErrno(file, absl::StrCat("F_SETPIPE_SZ(", pipe.capacity(), ")"));
  }
  if (pipe.packet_sizes_size() > 0) return WritePackets(builder, file, writer);
  return WritePart(builder, file, writer, pipe.content().data(), pipe.content().size());
}

}  // namespace incr

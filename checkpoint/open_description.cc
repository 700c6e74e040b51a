#include "checkpoint/open_description.h"

#include <fcntl.h>

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "checkpoint/text.h"

namespace incr {
namespace {

// What one open file description cannot differ in, whoever shares it and changes it
// meanwhile (position, flags, counts and even the path can change). Anonymous inodes all
// have the same inode, so the text tells them apart as far as it can.
auto Key(const FdEntry& entry) {
  const absl::string_view link = entry.link;
  return std::make_tuple(static_cast<uint64_t>(entry.stat.st_dev),
                         static_cast<uint64_t>(entry.stat.st_ino), entry.flags & O_ACCMODE,
                         link.substr(0, 1) == "/" ? absl::string_view() : link,
                         FdinfoField(entry.fdinfo, "eventfd-id"));
}

// Sorts [begin, end), all of one key, by the kernel's order of their open files.
absl::Status SortByOpenFile(const ProcessHandle& target, const FdEntry** begin,
                            const FdEntry** end) {
  absl::Status failure;
  std::stable_sort(begin, end, [&](const FdEntry* a, const FdEntry* b) {
    if (a == b || !failure.ok()) return false;
    auto order = CompareOpenFiles(target, a->fd, b->fd);
    if (!order.ok()) failure = order.status();
    return order.ok() && *order < 0;
  });
  return failure;
}

}  // namespace

int OpenDescription::access() const { return static_cast<int>(flags() & O_ACCMODE); }
bool OpenDescription::readable() const { return access() == O_RDONLY || access() == O_RDWR; }
bool OpenDescription::writable() const { return access() == O_WRONLY || access() == O_RDWR; }

absl::StatusOr<std::vector<OpenDescription>> GroupByOpenFile(const ProcessHandle& target,
                                                             const std::vector<FdEntry>& table) {
  std::vector<const FdEntry*> order;
  order.reserve(table.size());
  for (const FdEntry& entry : table) order.push_back(&entry);
  std::stable_sort(order.begin(), order.end(),
                   [](const FdEntry* a, const FdEntry* b) { return Key(*a) < Key(*b); });

  std::vector<OpenDescription> descriptions;
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && Key(*order[end]) == Key(*order[begin])) ++end;
    if (end - begin > 1) {
      INCR_RETURN_IF_ERROR(SortByOpenFile(target, &order[begin], order.data() + end));
    }
    for (size_t i = begin; i < end; ++i) {
      bool same = false;
      if (i > begin) {
        INCR_ASSIGN_OR_RETURN(same, SameOpenFile(target, order[i - 1]->fd, order[i]->fd));
      }
      if (!same) descriptions.emplace_back();
      descriptions.back().descriptors.push_back(order[i]);
    }
    begin = end;
  }
  for (OpenDescription& description : descriptions) {
    std::sort(description.descriptors.begin(), description.descriptors.end(),
              [](const FdEntry* a, const FdEntry* b) { return a->fd < b->fd; });
  }
  std::sort(descriptions.begin(), descriptions.end(),
            [](const OpenDescription& a, const OpenDescription& b) { return a.fd() < b.fd(); });
  return descriptions;
}

std::string Describe(const OpenDescription& description) {
  return absl::StrCat("fd ", description.fd(), " (", PrintableUtf8(description.first().link), ")");
}

absl::Status Unsupported(const OpenDescription& description, absl::string_view why) {
  return absl::UnimplementedError(absl::StrCat(Describe(description), ": ", why));
}

}  // namespace incr

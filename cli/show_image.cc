#include "cli/show_image.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cli/epoch_rows.h"
#include "cli/json.h"
#include "cli/text_table.h"

namespace incr {
namespace {

std::string Hex(uint64_t value) { return absl::StrCat("0x", absl::Hex(value)); }

// PRIVATE_FILE -> "private-file"
std::string KindName(const std::string& name) {
  if (name.empty()) return "unknown";  // A number that no version of ours wrote.
  return absl::AsciiStrToLower(absl::StrReplaceAll(name, {{"_", "-"}}));
}

uint32_t PagesWithin(const PageTable& table, uint32_t space, uint64_t first, uint64_t end) {
  const auto at = [&](uint64_t page) {
    return std::lower_bound(table.begin(), table.end(), std::make_pair(space, page),
                            [](const PageTableEntry& entry, const auto& key) {
                              return std::make_pair(entry.space, entry.page) < key;
                            });
  };
  return end < first ? 0 : static_cast<uint32_t>(at(end) - at(first));
}

std::string Access(const pb::Mapping& mapping) {
  std::string access = "---p";
  if (mapping.prot() & PROT_READ) access[0] = 'r';
  if (mapping.prot() & PROT_WRITE) access[1] = 'w';
  if (mapping.prot() & PROT_EXEC) access[2] = 'x';
  if (mapping.kind() == pb::Mapping::SHARED_FILE || mapping.kind() == pb::Mapping::SHARED_OBJECT) {
    access[3] = 's';
  }
  return access;
}

pb::ShowMapping Describe(const pb::Mapping& mapping, const PageTable& table, uint32_t space) {
  pb::ShowMapping row = DescribeMapping(mapping);
  row.set_pages(
      PagesWithin(table, space, mapping.start() / kPageSize, mapping.end() / kPageSize));
  if (mapping.file_space() != 0) {
    const uint64_t first = mapping.offset() / kPageSize;
    row.set_file_pages(PagesWithin(table, mapping.file_space(), first,
                                   first + (mapping.end() - mapping.start()) / kPageSize));
  }
  return row;
}

pb::ShowThread Describe(const pb::Thread& thread) {
  pb::ShowThread row;
  row.set_tid(thread.tid());
  row.set_name(CleanText(thread.comm()));
  user_regs_struct registers;
  if (thread.registers().size() == sizeof registers) {
    std::memcpy(&registers, thread.registers().data(), sizeof registers);
    row.set_instruction_pointer(Hex(registers.rip));
    row.set_stack_pointer(Hex(registers.rsp));
  }
  row.set_signal_mask(Hex(thread.signal_mask()));
  row.set_nice(thread.nice());
  row.set_pending_signals(thread.pending_signals_size());
  return row;
}

std::string OpenFlags(uint32_t flags) {
  std::vector<std::string> names;
  const uint32_t access = flags & O_ACCMODE;
  names.push_back(access == O_RDONLY ? "r" : access == O_WRONLY ? "w" : "rw");
  if (flags & O_APPEND) names.push_back("append");
  if (flags & O_NONBLOCK) names.push_back("nonblock");
  if ((flags & O_SYNC) == O_SYNC) names.push_back("sync");
  if (flags & O_DIRECT) names.push_back("direct");
  return absl::StrJoin(names, ",");
}

// A struct sockaddr that an image holds: any bytes.
std::string FormatAddress(const std::string& bytes) {
  sockaddr_storage address{};
  if (bytes.size() < sizeof address.ss_family || bytes.size() > sizeof address) return "";
  std::memcpy(&address, bytes.data(), bytes.size());
  char text[INET6_ADDRSTRLEN] = "?";
  if (address.ss_family == AF_INET && bytes.size() >= sizeof(sockaddr_in)) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address);
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    return absl::StrCat(text, ":", ntohs(in->sin_port));
  }
  if (address.ss_family == AF_INET6 && bytes.size() >= sizeof(sockaddr_in6)) {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
    return absl::StrCat("[", text, "]:", ntohs(in6->sin6_port));
  }
  if (address.ss_family == AF_UNIX) {
    std::string path = bytes.substr(sizeof address.ss_family);
    if (!path.empty() && path[0] == '\0') return CleanText("@" + path.substr(1));
    return CleanText(path.c_str());
  }
  return "";
}

std::string FileName(const pb::OpenFile& file) {
  switch (file.kind()) {
    case pb::OpenFile::PIPE:
      return absl::StrCat("pipe ", file.pipe().pipe_id(),
                          file.pipe().write_end() ? ", write end" : ", read end");
    case pb::OpenFile::STDIO:
      return absl::StrCat("the restoring command's fd ", file.stdio_fd());
    case pb::OpenFile::EVENTFD:
      return absl::StrCat("count ", file.eventfd_count());
    case pb::OpenFile::EPOLL:
      return absl::StrCat("watches ", file.epoll_size());
    case pb::OpenFile::SOCKET_PAIR:
      return absl::StrCat("pair ", file.socket().pair_id());
    default:
      break;
  }
  if (file.has_file()) return CleanText(file.file().path());
  const std::string local = FormatAddress(file.socket().local_address());
  const std::string remote = FormatAddress(file.socket().remote_address());
  return remote.empty() ? local : absl::StrCat(local, " -> ", remote);
}

pb::ShowFile Describe(const pb::FileDescriptor& descriptor, const pb::OpenFile* file) {
  pb::ShowFile row;
  row.set_fd(descriptor.fd());
  row.set_close_on_exec(descriptor.close_on_exec());
  row.set_open_file(descriptor.open_file());
  if (file == nullptr) {
    row.set_kind("unknown");
    return row;
  }
  row.set_kind(KindName(pb::OpenFile::Kind_Name(file->kind())));
  row.set_name(FileName(*file));
  row.set_position(static_cast<double>(file->position()));
  row.set_flags(OpenFlags(file->flags()));
  return row;
}

void DescribeProcess(const pb::Process& process, const pb::Image& image, const PageTable& table,
                     pb::ShowReply* reply) {
  reply->set_ppid(process.ppid());
  reply->set_uid(process.uid());
  reply->set_gid(process.gid());
  reply->set_command(CleanText(process.comm()));
  reply->set_command_line(CleanText(process.command_line()));
  reply->set_exe(CleanText(process.exe().path()));
  reply->set_cwd(CleanText(process.cwd()));
  double bytes = 0, excluded_bytes = 0;
  for (const pb::Mapping& mapping : process.mappings()) {
    const pb::ShowMapping& row = *reply->add_mappings() = Describe(mapping, table, process.space());
    bytes += row.bytes();
    excluded_bytes += row.excluded_bytes();
  }
  reply->set_memory_bytes(bytes);
  reply->set_excluded_bytes(excluded_bytes);
  for (const pb::Thread& thread : process.threads()) *reply->add_threads() = Describe(thread);
  for (pb::ShowFile& row : DescribeFiles(process, image)) *reply->add_files() = std::move(row);
}

std::string Number(double value) { return absl::StrFormat("%.0f", value); }

void AppendExcluded(const pb::ShowReply& reply, std::string* text) {
  std::vector<std::string> ranges;
  for (const pb::ShowMapping& row : reply.mappings()) {
    if (!row.excluded()) continue;
    ranges.push_back(
        absl::StrCat(row.start(), "-", row.end(), " (", FormatBytes(row.excluded_bytes()), ")"));
  }
  if (ranges.empty()) return;
  absl::StrAppend(text, "not saved, marked MADV_DONTDUMP: ", FormatBytes(reply.excluded_bytes()),
                  " in ", absl::StrJoin(ranges, ", "), "\n");
}

}  // namespace

pb::ShowMapping DescribeMapping(const pb::Mapping& mapping) {
  pb::ShowMapping row;
  row.set_start(Hex(mapping.start()));
  row.set_end(Hex(mapping.end()));
  row.set_bytes(static_cast<double>(mapping.end() - mapping.start()));
  row.set_access(Access(mapping));
  row.set_kind(KindName(pb::Mapping::Kind_Name(mapping.kind())));
  row.set_name(CleanText(mapping.has_file() ? mapping.file().path() : mapping.name()));
  row.set_offset(static_cast<double>(mapping.offset()));
  row.set_excluded(mapping.excluded());
  row.set_excluded_bytes(static_cast<double>(mapping.excluded_pages()) * kPageSize);
  return row;
}

std::vector<pb::ShowFile> DescribeFiles(const pb::Process& process, const pb::Image& image) {
  std::map<uint32_t, const pb::OpenFile*> files;
  for (const pb::OpenFile& file : image.open_files()) files[file.id()] = &file;
  std::vector<pb::ShowFile> rows;
  for (const pb::FileDescriptor& descriptor : process.descriptors()) {
    const auto found = files.find(descriptor.open_file());
    rows.push_back(Describe(descriptor, found == files.end() ? nullptr : found->second));
  }
  return rows;
}

pb::ShowReply DescribeEpoch(const pb::EpochRecord& record, const pb::Image& image,
                            const PageTable& table) {
  pb::ShowReply reply;
  *reply.mutable_epoch_row() = ToRow(record);
  reply.set_job(reply.epoch_row().job());
  reply.set_epoch(reply.epoch_row().epoch());
  reply.set_parent(reply.epoch_row().parent());
  reply.set_time(reply.epoch_row().time());
  reply.set_tracker(reply.epoch_row().tracker());
  reply.set_pid(record.pid());
  reply.set_kernel_release(CleanText(image.machine().kernel_release()));
  reply.set_saved_pages(static_cast<double>(table.size()));
  if (image.processes_size() > 0) DescribeProcess(image.processes(0), image, table, &reply);
  for (const std::string& warning : image.warnings()) reply.add_warnings(CleanText(warning));
  return reply;
}

std::string FormatShow(const pb::ShowReply& reply) {
  std::string text = absl::StrCat(
      "epoch ", reply.epoch(), " of job ", reply.job(), ", ", reply.time(), ", ",
      reply.parent() == 0 ? "a full one" : absl::StrCat("written since epoch ", reply.parent()),
      ", tracker ", reply.tracker(), "\n");
  absl::StrAppend(&text, "process ", reply.pid(), " (", reply.command(), "): ",
                  reply.command_line(), "\n");
  absl::StrAppend(&text, "executable ", reply.exe(), ", directory ", reply.cwd(), ", uid ",
                  reply.uid(), ", kernel ", reply.kernel_release(), "\n");
  absl::StrAppend(&text, "memory: ", FormatBytes(reply.memory_bytes()), " mapped, ",
                  Number(reply.saved_pages()), " pages saved (",
                  FormatBytes(reply.saved_pages() * kPageSize), ")\n");
  AppendExcluded(reply, &text);
  text += "\n";
  TextTable mappings(
      {"MAPPING", "ACCESS", "KIND", ">SIZE", ">PAGES SAVED", ">OF THE FILE", "NAME"});
  for (const pb::ShowMapping& row : reply.mappings()) {
    mappings.Add({absl::StrCat(row.start(), "-", row.end()), row.access(), row.kind(),
                  FormatBytes(row.bytes()), absl::StrCat(row.pages()),
                  absl::StrCat(row.file_pages()), row.name()});
  }
  TextTable threads({">THREAD", "NAME", "INSTRUCTION", "STACK", "SIGNALS BLOCKED", ">NICE"});
  for (const pb::ShowThread& row : reply.threads()) {
    threads.Add({absl::StrCat(row.tid()), row.name(), row.instruction_pointer(),
                 row.stack_pointer(), row.signal_mask(), absl::StrCat(row.nice())});
  }
  TextTable files({">FD", "KIND", "FLAGS", ">POSITION", "CLOEXEC", "NAME"});
  for (const pb::ShowFile& row : reply.files()) {
    files.Add({absl::StrCat(row.fd()), row.kind(), row.flags(), Number(row.position()),
               row.close_on_exec() ? "yes" : "no", row.name()});
  }
  absl::StrAppend(&text, mappings.Format(), "\n", threads.Format(), "\n", files.Format());
  for (const std::string& warning : reply.warnings()) {
    absl::StrAppend(&text, "\nwarning: ", warning);
  }
  if (reply.warnings_size() > 0) text += "\n";
  return text;
}

}  // namespace incr

#include "base/fault_point.h"

#include <csignal>
#include <cstdlib>
#include <string>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "absl/base/const_init.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"

namespace incr {
namespace {

struct Fault {
  std::string name;
  std::string action;
  int on_passage = 0;  // 0: every one.
  int passages = 0;
};

std::atomic<bool> any_armed{false};
absl::Mutex mutex(absl::kConstInit);

std::vector<Fault>& Faults() {
  static auto& faults = *new std::vector<Fault>;
  return faults;
}

bool LoadEnvironment() {
  if (const char* text = std::getenv("INCR_CKPT_FAULTS")) ArmFaultPoints(text);
  return true;
}

}  // namespace

void ArmFaultPoints(absl::string_view specification) {
  absl::MutexLock lock(&mutex);
  Faults().clear();
  for (absl::string_view item : absl::StrSplit(specification, ',', absl::SkipEmpty())) {
    std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(item, absl::MaxSplits('=', 1));
    std::pair<absl::string_view, absl::string_view> action =
        absl::StrSplit(parts.second, absl::MaxSplits(':', 1));
    Fault fault{std::string(parts.first), std::string(action.first)};
    if (!absl::SimpleAtoi(action.second, &fault.on_passage)) fault.on_passage = 0;
    Faults().push_back(fault);
  }
  any_armed.store(!Faults().empty(), std::memory_order_release);
}

absl::Status FaultPoint(absl::string_view name) {
  static const bool loaded = LoadEnvironment();
  (void)loaded;
  if (!any_armed.load(std::memory_order_acquire)) [[likely]] return absl::OkStatus();
  absl::MutexLock lock(&mutex);
  for (Fault& fault : Faults()) {
    if (fault.name != name) continue;
    ++fault.passages;
    if (fault.on_passage != 0 && fault.on_passage != fault.passages) continue;
    if (fault.action == "kill") ::kill(::getpid(), SIGKILL);
    if (fault.action == "sleep") ::usleep(200'000);
    if (fault.action == "error") {
      return absl::InternalError(absl::StrCat("fault point ", name));
    }
  }
  return absl::OkStatus();
}

}  // namespace incr

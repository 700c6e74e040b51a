// trk_torture — does everything to its memory, at random under a seed, in threads; trk_torture.h says
// what of it replays.
//
// Usage: trk_torture SOCKET_FD FILE. Commands as for trk_target, one per SEQPACKET message:
//   prepare SEED THREADS OWN_UFFD   arenas, objects, the helper; nothing runs yet
//   run | halt         all threads and the helper
//   step N | help N    N operations of the first worker, of the helper
//   done -> operations so far
//   trail              the last operations of each thread, to stderr
//   report             what never worked, to stderr
#include <linux/prctl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#include "testdata/targets/trk_torture.h"

namespace torture {

thread_local sigjmp_buf fault_exit;
thread_local OnFault on_fault = OnFault::kDie;
int control_socket = -1;

namespace {

constexpr uint64_t kBlock = 96;  // operations with one mixture and one tempo
constexpr int kTrail = 64;

struct Step {
  uint64_t number;
  const char* name;
  const void* at;
  uint64_t a, b, c;
  bool worked;
};
Step trail[kMaxThreads][kTrail];
std::vector<Operation> operations;
std::vector<std::atomic<uint64_t>> tried(200), worked(200);

uint64_t Mix(uint64_t a, uint64_t b, uint64_t c) { return Random(Random(a * 31 + b)() + c)(); }

}  // namespace

Worker::Worker(int index, uint64_t seed) : index(index), seed(seed) {}

Piece Worker::Own(uint64_t most) {
  const uint64_t at = random.Pick(kArenaPages);
  const uint64_t pages = 1 + random.Pick(random.OneIn(4) ? most : std::min<uint64_t>(most, 40));
  return {own() + at * kPage, std::min(pages, kArenaPages - at)};
}
Piece Worker::Any(uint64_t most) {
  const Piece piece = Own(most);
  if (!random.OneIn(4)) return piece;
  const uint64_t at = random.Pick(kCommonPages);
  return {At(kCommon + at * kPage), std::min(piece.pages, kCommonPages - at)};
}
char* Worker::PlaceFor(const Piece& piece) {
  const bool common = piece.at >= At(kCommon);
  const uint64_t pages = common ? kCommonPages : kArenaPages;
  char* base = common ? At(kCommon) : own();
  return base + random.Pick(pages - std::min(piece.pages, pages - 1)) * kPage;
}
int Worker::Protection() {
  constexpr int kSome[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                           PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ, PROT_NONE};
  return kSome[random.Pick(6)];
}
void Worker::Note(const void* at, uint64_t a, uint64_t b, uint64_t c) {
  Step& step = trail[index][done % kTrail];
  step.at = at, step.a = a, step.b = b, step.c = c;
}
Piece Worker::Noted(const Piece& piece, uint64_t a, uint64_t b) {
  Note(piece.at, piece.pages, a, b);
  return piece;
}
void Worker::MarkShared(const Piece& piece, bool shared) {
  for (uint64_t i = 0; i < piece.pages; ++i) {
    const uint64_t page = (piece.at - own()) / kPage + i;
    if (piece.at >= own() && page < kArenaPages) shared_[page] = shared;
  }
}
bool Worker::MayBeShared(const Piece& piece) const {
  const uint64_t first = (piece.at - own()) / kPage;
  return std::any_of(shared_ + first, shared_ + first + piece.pages, [](bool shared) { return shared; });
}

namespace {

// Half of the kinds of operations, for a while, at some tempo: rare neighbours meet more often than
// when everything always happens at once.
class Mixture {
 public:
  size_t Draw(const Worker& worker, uint64_t number) {
    if (number / kBlock != block_) Choose(worker, number / kBlock);
    Random random(Mix(worker.seed, worker.index, number) ^ 0x5eed);
    const int drawn = static_cast<int>(random.Pick(sums_[operations.size() - 1]));
    return std::upper_bound(sums_, sums_ + operations.size(), drawn) - sums_;
  }

 private:
  void Choose(const Worker& worker, uint64_t block) {
    block_ = block;
    Random random(Mix(worker.seed, worker.index, ~block));
    constexpr int kNaps[] = {0, 1, 8, 40};
    const int naps = kNaps[random.Pick(4)];
    int sum = 0;
    for (size_t i = 0; i < operations.size(); ++i) {
      const Operation& operation = operations[i];
      const bool store = i < 2, nap = std::strcmp(operation.name, "nap") == 0;
      sum += nap ? operation.weight * naps : store || random.OneIn(2) ? operation.weight : 0;
      sums_[i] = sum;
    }
  }
  uint64_t block_ = ~uint64_t{0};
  int sums_[200];
};

class Crew {
 public:
  void Allow(uint64_t operations_each) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (operations_each != 0) idle_ = 0;
    allowed_ = operations_each;
    changed_.notify_all();
  }
  void AwaitIdle(int workers) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return idle_ == workers; });
  }
  // Blocks until the worker may do its operation number `done`.
  void Await(uint64_t done) {
    if (done < allowed_.load(std::memory_order_relaxed)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    ++idle_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return done < allowed_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<uint64_t> allowed_{0};
  int idle_ = 0;  // since the last Allow
};

Crew crew;
std::unique_ptr<Worker> workers[kMaxThreads];
std::atomic<int> worker_count{0};

[[noreturn]] void Work(Worker& worker) {
  Mixture mixture;
  for (;; ++worker.done) {
    crew.Await(worker.done);
    const size_t which = mixture.Draw(worker, worker.done);
    worker.random = Random(Mix(worker.seed, worker.index, worker.done));
    trail[worker.index][worker.done % kTrail] = {worker.done, operations[which].name};
    volatile bool ok = false;
    if (sigsetjmp(fault_exit, 1) == 0) {
      on_fault = OnFault::kLeaveOperation;
      ok = operations[which].run(worker);
    }
    on_fault = OnFault::kDie;
    worker.rounds_gate.Leave();
    ++tried[which];
    if (ok) ++worked[which];
    trail[worker.index][worker.done % kTrail].worked = ok;
  }
}

void HandleFault(int signal) {
  if (on_fault == OnFault::kExitChild) _exit(1);
  if (on_fault == OnFault::kLeaveOperation) siglongjmp(fault_exit, 1);
  std::signal(signal, SIG_DFL);  // Not in an operation: a bug.
}

void MapArenas(int threads) {
  const auto map = [](uint64_t at, uint64_t pages) {
    if (mmap(At(at), pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) == MAP_FAILED) {
      std::perror("trk_torture: arena");
      std::exit(2);
    }
    FillPattern(At(at), pages * kPage / 2, at);
  };
  for (int i = 0; i < threads; ++i) map(kOwn + i * kOwnStride, kArenaPages);
  map(kCommon, kCommonPages);
}

class Control {
 public:
  Control(int socket, const char* file) : socket_(socket), file_(file) {}

  void Serve() {
    char message[256];
    for (;;) {
      const ssize_t n = recv(socket_, message, sizeof message - 1, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) _exit(0);
      message[n] = 0;
      const long result = Obey(message);
      const int length = result < 0 ? std::snprintf(message, sizeof message, "error %ld", -result)
                                    : std::snprintf(message, sizeof message, "ok %lx", result);
      if (send(socket_, message, length, MSG_NOSIGNAL) != length) _exit(0);
    }
  }

 private:
  long Obey(const char* message) {
    char verb[32] = "";
    unsigned long a = 0, b = 0, c = 0;
    std::sscanf(message, "%31s %lx %lx %lx", verb, &a, &b, &c);
    const std::string_view command = verb;
    if (command == "brk") return 0;
    if (command == "prepare") return Prepare(a, static_cast<int>(b), c != 0);
    if (command == "run") return crew.Allow(~uint64_t{0}), TellHelper('r');
    if (command == "halt") return Halt();
    if (command == "step") {
      if (a == 0) return 0;
      workers[0]->naps = false;
      crew.Allow(steps_ += a);
      crew.AwaitIdle(worker_count);
      return 0;
    }
    if (command == "help") {
      for (; a > 0; --a) TellHelper('s');
      return 0;
    }
    if (command == "trail") return PrintTrail();
    if (command == "report") return Report();
    if (command == "done") {
      uint64_t sum = 0;
      for (auto& n : tried) sum += n;
      return static_cast<long>(sum);
    }
    return -ENOSYS;
  }

  long Prepare(uint64_t seed, int threads, bool own_uffd) {
    Gate::SetPath(file_);
    CreateObjects(file_);
    MapArenas(threads);
    AddStores(&operations);
    AddMappings(&operations);
    AddPageStates(&operations);
    AddKernelWrites(&operations);
    AddObjects(&operations);
    AddProcesses(&operations);
    int feeds[kMaxThreads], fed[kMaxThreads];
    for (int i = 0; i < threads; ++i) {
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -errno;
      feeds[i] = ends[0], fed[i] = ends[1];
    }
    helper_ = StartHelper(seed, threads, feeds);
    if (helper_ < 0) return -EIO;
    if (own_uffd) AddUserfaultfd(&operations);
    for (int i = 0; i < threads; ++i) {
      workers[i] = std::make_unique<Worker>(i, seed);
      OpenChannels(*workers[i], fed[i]);
      if (i > 0) std::thread([i] { Work(*workers[i]); }).detach();
    }
    worker_count = threads;
    worker_count.notify_all();  // The main thread is the first.
    crew.AwaitIdle(threads);
    return 0;
  }

  long TellHelper(char command) {
    char answer = 0;
    const bool ok = send(helper_, &command, 1, MSG_NOSIGNAL) == 1 && recv(helper_, &answer, 1, 0) == 1;
    return ok && answer == command ? 0 : -EPIPE;
  }
  long Halt() {
    const long result = TellHelper('p');
    crew.Allow(0);
    crew.AwaitIdle(worker_count);
    return result;
  }

  long PrintTrail() {
    for (int i = 0; i < worker_count; ++i) {
      const uint64_t done = workers[i]->done;
      for (uint64_t n = done < kTrail ? 0 : done - kTrail + 1; n <= done; ++n) {
        const Step& s = trail[i][n % kTrail];
        if (s.name == nullptr) continue;
        std::fprintf(stderr, "thread %d #%lu %s at %p %lx %lx %lx: %s\n", i, s.number, s.name, s.at, s.a,
                     s.b, s.c, s.worked ? "worked" : "failed");
      }
    }
    return 0;
  }
  long Report() {
    long never = 0;
    for (size_t i = 0; i < operations.size(); ++i) {
      if (tried[i] == 0 || worked[i] != 0) continue;
      std::fprintf(stderr, "never worked in %lu tries: %s\n", tried[i].load(), operations[i].name);
      ++never;
    }
    return never;
  }

  const int socket_;
  const char* const file_;
  int helper_ = -1;
  uint64_t steps_ = 0;
};

}  // namespace
}  // namespace torture

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  using namespace torture;
  // The break is the operations' own: malloc gets what it needs now, and gives nothing back.
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  free(malloc(100 << 10));
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
  std::signal(SIGSEGV, HandleFault);
  std::signal(SIGBUS, HandleFault);
  std::signal(SIGPIPE, SIG_IGN);
  control_socket = std::atoi(argv[1]);
  std::thread([&] { Control(control_socket, argv[2]).Serve(); }).detach();
  worker_count.wait(0);
  Work(*workers[0]);
}

// forked_target.h — for tests: a child of the test with descriptors of the test's choice, which
// waits, and later says what it finds.
//
// It talks through shared memory, never through a descriptor: its table is the subject.
#ifndef INCR_CKPT_CHECKPOINT_FORKED_TARGET_H_
#define INCR_CKPT_CHECKPOINT_FORKED_TARGET_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "process/process_handle.h"

namespace incr {

class ForkedTarget {
 public:
  using Setup = std::function<void()>;
  using Check = std::function<std::string()>;  // "" if all is well

  // With a clean table: 0, 1, 2 on /dev/null, nothing else; then setup(). Returns when
  // setup is done; afterwards the child waits for Finish().
  static ForkedTarget Clean(Setup setup, Check check = nullptr);
  // With the table of the test itself.
  static ForkedTarget Inheriting(Check check);

  ForkedTarget(ForkedTarget&& other) noexcept;
  ForkedTarget& operator=(ForkedTarget&&) = delete;
  ~ForkedTarget() { Kill(); }

  pid_t pid() const { return pid_; }
  const ProcessHandle& handle() const { return *handle_; }

  // Lets it run check() and exit; what it found wrong, or how it died.
  std::string Finish();
  void Kill();  // SIGKILL, and reaps it

 private:
  struct Shared;
  ForkedTarget() = default;
  void Start(bool clean, const Setup& setup, const Check& check);
  pid_t pid_ = 0;
  Shared* shared_ = nullptr;
  std::unique_ptr<ProcessHandle> handle_;
};

// Moves a descriptor to `number`.
int MoveFd(int fd, int number);

}  // namespace incr

#endif  // INCR_CKPT_CHECKPOINT_FORKED_TARGET_H_

// cpu_placement.h — on which CPUs a thread runs, within those that it may use.
//
// For threads that work for one another for less time than the scheduler takes to spread them (it wakes a thread on
// the waker's CPU, or where it was before, and looks again some milliseconds later). All of it is wishes: what the
// kernel refuses changes nothing. Thread safety: none, except that threads other than its own may be placed.
#ifndef INCR_CKPT_BASE_CPU_PLACEMENT_H_
#define INCR_CKPT_BASE_CPU_PLACEMENT_H_

#include <pthread.h>
#include <sched.h>

namespace incr {

class CpuPlacement {
 public:
  // All that the calling thread may use now. (More than CPU_SETSIZE CPUs: nothing is ever placed.)
  CpuPlacement() : known_(::sched_getaffinity(0, sizeof all_, &all_) == 0) {}

  // False: it may not use that one, and stays as it was. Moving takes 15 us.
  bool OnlyOn(int cpu) const {
    if (!Has(cpu)) return false;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return ::sched_setaffinity(0, sizeof one, &one) == 0;
  }
  // All but `cpu`, if that leaves any; -1: all.
  void NotOn(int cpu) const { NotOn(cpu, ::pthread_self()); }
  void NotOn(int cpu, pthread_t thread) const {
    if (!known_) return;
    cpu_set_t others = all_;
    if (Has(cpu) && CPU_COUNT(&all_) > 1) CPU_CLR(cpu, &others);
    (void)::pthread_setaffinity_np(thread, sizeof others, &others);
  }

 private:
  bool Has(int cpu) const { return known_ && cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &all_); }
  cpu_set_t all_;
  const bool known_;
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_CPU_PLACEMENT_H_

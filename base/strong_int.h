// strong_int.h — a number that is more than a number: StrongInt<Tag, T> makes
// types that do not mix. Explicit in and out; ordered, hashable, countable.
#ifndef INCR_CKPT_BASE_STRONG_INT_H_
#define INCR_CKPT_BASE_STRONG_INT_H_

#include <compare>
#include <cstdint>
#include <utility>

namespace incr {

template <typename Tag, typename T>
class StrongInt {
 public:
  using Value = T;
  constexpr StrongInt() = default;
  constexpr explicit StrongInt(T value) : value_(value) {}
  constexpr T value() const { return value_; }
  constexpr auto operator<=>(const StrongInt&) const = default;
  constexpr StrongInt operator+(T n) const { return StrongInt(value_ + n); }
  constexpr StrongInt operator-(T n) const { return StrongInt(value_ - n); }
  constexpr T operator-(StrongInt other) const { return value_ - other.value_; }
  constexpr StrongInt& operator+=(T n) {
    value_ += n;
    return *this;
  }
  constexpr StrongInt& operator++() {
    ++value_;
    return *this;
  }
  template <typename H>
  friend H AbslHashValue(H h, StrongInt v) {
    return H::combine(std::move(h), v.value_);
  }

 private:
  T value_{};
};

}  // namespace incr

#endif  // INCR_CKPT_BASE_STRONG_INT_H_

// zero_page.h — whether reading untouched memory maps the shared zero page here. Tests only.
//
// Linux does so; a guest kernel may not (seen: a 6.18 of a cloud provider, booted with
// pvm_no_zero_page=1, gives each reader a page of its own). A page that was only read is then
// content, of zeros, like any other. Thread-safe.
#ifndef INCR_CKPT_PROCESS_ZERO_PAGE_H_
#define INCR_CKPT_PROCESS_ZERO_PAGE_H_

namespace incr {

// Found by use: two untouched pages, read, are one frame. Needs CAP_SYS_ADMIN (true without it).
bool KernelMapsZeroPage();

}  // namespace incr

#endif  // INCR_CKPT_PROCESS_ZERO_PAGE_H_

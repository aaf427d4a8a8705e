// The functions that the compiler's instrumentation calls: -fsanitize=thread before each access, and
// -fsanitize=undefined where a behavior is not defined.
#pragma once

#include "kernel_functions.h"

extern "C" {

#define GPUCONV_HOOKS(n)                                                            \
    void __tsan_read##n(void* p) { observe(p, n, READ, CALLER_PC); }                     \
    void __tsan_write##n(void* p) { observe(p, n, WRITE, CALLER_PC); }                   \
    void __tsan_read_write##n(void* p) { observe(p, n, READ, CALLER_PC), observe(p, n, WRITE, CALLER_PC); }
#define GPUCONV_UNALIGNED_HOOKS(n)                                                  \
    void __tsan_unaligned_read##n(void* p) { observe(p, n, READ, CALLER_PC); }           \
    void __tsan_unaligned_write##n(void* p) { observe(p, n, WRITE, CALLER_PC); }         \
    void __tsan_unaligned_read_write##n(void* p) { observe(p, n, READ, CALLER_PC), observe(p, n, WRITE, CALLER_PC); }
GPUCONV_HOOKS(1)
GPUCONV_HOOKS(2)
GPUCONV_HOOKS(4)
GPUCONV_HOOKS(8)
GPUCONV_HOOKS(16)
GPUCONV_UNALIGNED_HOOKS(2)
GPUCONV_UNALIGNED_HOOKS(4)
GPUCONV_UNALIGNED_HOOKS(8)
GPUCONV_UNALIGNED_HOOKS(16)
void __tsan_read_range(void* p, size_t n) { observe(p, n, READ, CALLER_PC); }
void __tsan_write_range(void* p, size_t n) { observe(p, n, WRITE, CALLER_PC); }
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    observe(from, n, READ, CALLER_PC);
    observe(to, n, WRITE, CALLER_PC);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    observe(from, n, READ, CALLER_PC);
    observe(to, n, WRITE, CALLER_PC);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
    observe(to, n, WRITE, CALLER_PC);
    return memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// UndefinedBehaviorSanitizer's handlers. The data of each begins with a source position; most read nothing else.
struct Place {
    const char* file;
    uint32_t line, column;
};
struct TypeMismatch {
    Place place;
    const void* type;
    unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, uintptr_t address) {
    const Site site{data->place.file, int(data->place.line)};
    if (address == 0) gpuconv_fail("out of bounds: an access through a null pointer", site);
    const std::string alignment = std::to_string(1 << data->log_alignment);
    gpuconv_fail(("an address is not aligned to the " + alignment + " bytes that its type requires").c_str(), site);
}
#define GPUCONV_UNDEFINED(handler, what) \
    void __ubsan_handle_##handler(const Place* place) { gpuconv_fail(what, {place->file, int(place->line)}); }
GPUCONV_UNDEFINED(add_overflow, "a signed sum overflows")
GPUCONV_UNDEFINED(sub_overflow, "a signed difference overflows")
GPUCONV_UNDEFINED(mul_overflow, "a signed product overflows")
GPUCONV_UNDEFINED(negate_overflow, "a signed negation overflows")
GPUCONV_UNDEFINED(divrem_overflow, "an integer is divided by zero, or the quotient overflows")
GPUCONV_UNDEFINED(shift_out_of_bounds, "a shift by more bits than there are, or of a negative number")
GPUCONV_UNDEFINED(out_of_bounds, "out of bounds: an index past the end of an array")
GPUCONV_UNDEFINED(pointer_overflow, "the arithmetic of a pointer overflows")
GPUCONV_UNDEFINED(load_invalid_value, "a bool or enum holds none of its values")
GPUCONV_UNDEFINED(float_cast_overflow, "a number does not fit the integer it is converted to")
GPUCONV_UNDEFINED(builtin_unreachable, "reached what was declared unreachable")
GPUCONV_UNDEFINED(missing_return, "a function ends without returning a value")
GPUCONV_UNDEFINED(vla_bound_not_positive, "an array of no or negative length")
GPUCONV_UNDEFINED(invalid_builtin, "the leading or trailing zeros of 0 are counted")
GPUCONV_UNDEFINED(nonnull_arg, "a null pointer where none may be")

}  // extern "C"

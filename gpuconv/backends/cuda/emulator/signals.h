// Processor faults inside a kernel (an invalid address, a stack overflow, an integer division by zero) end the launch
// with an error instead of ending the process.
#pragma once

#include <signal.h>

#include <memory>
#include <mutex>

#include "block.h"

namespace gpuconv_emulator {

class FaultHandlers {  // installed while any launch runs
  public:
    FaultHandlers() {
        std::lock_guard<std::mutex> lock(mutex());
        if (users()++ > 0) return;
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler does not return, so its signal must stay unblocked
        for (int i = 0; i < kSignals; ++i) sigaction(signals[i], &action, &before()[i]);
    }
    ~FaultHandlers() {
        std::lock_guard<std::mutex> lock(mutex());
        if (--users() == 0)
            for (int i = 0; i < kSignals; ++i) sigaction(signals[i], &before()[i], nullptr);
    }

  private:
    static constexpr int kSignals = 3;
    static constexpr int signals[kSignals] = {SIGSEGV, SIGBUS, SIGFPE};

    static std::mutex& mutex() { static std::mutex m; return m; }
    static int& users() { static int count = 0; return count; }
    static struct sigaction* before() { static struct sigaction actions[kSignals]; return actions; }

    static void on_fault(int signal, siginfo_t* info, void*) {
        auto* block = static_cast<Block*>(gpuconv_context);
        if (!block) {  // not ours: let it recur without this handler
            for (int i = 0; i < kSignals; ++i) sigaction(signals[i], &before()[i], nullptr);
            return;
        }
        if (signal == SIGFPE) block->fail("an integer divided by zero");
        block->fail_at(uintptr_t(info->si_addr));
    }
};

class SignalStack {  // the stack of the calling thread's fault handler, because the fiber's own may have overflowed
  public:
    SignalStack() : memory(new char[size]) {
        stack_t stack{};
        stack.ss_sp = memory.get();
        stack.ss_size = size;
        sigaltstack(&stack, &before);
    }
    ~SignalStack() { sigaltstack(&before, nullptr); }

  private:
    static constexpr size_t size = 64 * 1024;
    std::unique_ptr<char[]> memory;
    stack_t before{};
};

}  // namespace gpuconv_emulator

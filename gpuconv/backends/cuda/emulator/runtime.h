// The emulator's runtime, compiled once, on its own.
#pragma once

#include "instrumentation.h"
#include "kernel_functions.h"
#include "python_functions.h"

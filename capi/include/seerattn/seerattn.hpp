// seerattn.hpp: libseerattn for C++20. Header only: it is compiled into your program and no part of the library's ABI.
// seerattn.h is the reference for what calls compute, for shapes, units and threads; here is what C++ adds to it.
//
//   Objects    Context, Model, Buffer and Cancel are references: a copy is the same object, and is cheap. GateCache and
//              Ticket can only be moved. What was default-constructed or moved from stands for NULL, and calls with it
//              fail. What seerattn.h says about threads holds for all copies of an object together.
//   Memory     Input and Output view your memory. run() reads and writes it before it returns; submit() does until the
//              Ticket was waited for, and a Ticket that is destroyed waits. No Output can be made from const data.
//   Errors     A call that fails throws Error, whose what() has the library's own words. The same call with try_ in
//              front returns a Result instead, for programs without exceptions (there, value() of a failure aborts).
//   Callbacks  run on the library's threads and may call nothing but Cancel::trigger. A progress callback that throws
//              cancels its work, and the exception comes out of the call that waits for it; others must not throw.
//
// namespace seerattn, not seer: that is the library's own, and a static library shows it to the linker.
#pragma once

#include "cpp/context.hpp"
#include "cpp/model.hpp"
#include "cpp/operations.hpp"
#include "cpp/values.hpp"

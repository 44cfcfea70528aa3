// How an exception becomes a text, for every file of the shim. The rules are those of shim.cpp.

#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

template <typename F>
char *guarded(F &&body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

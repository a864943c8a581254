// What a call throws, as a value to compare.
#pragma once

#include <string>
#include <system_error>
#include <typeinfo>

namespace cowfs::tests {

/// The errno of the std::system_error that `call` throws; 0 if it throws nothing.
template <typename Call>
int error_of(Call&& call) {
  try {
    call();
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

/// what() of the Exception (just that type, none derived from it) that `call` throws; "nothing
/// thrown" if so.
template <typename Exception, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Exception& error) {
    if (typeid(error) != typeid(Exception)) throw;
    return error.what();
  }
  return "nothing thrown";
}

}  // namespace cowfs::tests

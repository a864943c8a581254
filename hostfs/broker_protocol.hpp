// What a worker says to the process outside of its jail, on two sockets of whole messages
// (SOCK_SEQPACKET).
//
// The broker believes nothing of it: the worker is what a guest could take over. On the first
// socket it can have a regular file that it has open registered for passthrough, and such a
// registration taken back. On the second it can have a line written to the log, shortened and
// without control characters.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cowfs::hostfs {

struct BrokerRequest {
  enum Kind : std::uint32_t {
    open_backing = 1,   ///< comes with a descriptor; answered by a BrokerReply
    close_backing = 2,  ///< not answered
  };
  std::uint32_t kind;
  std::int32_t id;  ///< of close_backing
};

struct BrokerReply {
  std::int32_t id;  ///< above 0, or a negative errno
};

/// The first byte of a message on the second socket; text follows.
enum class Report : char {
  ready = 'r',    ///< it serves; the text is what is in force
  refused = 'x',  ///< it could not start; why
  info = 'i',
  warning = 'w',
  error = 'e',
};

inline constexpr std::size_t longest_report = 16384;

/// The descriptors that a worker finds open when it starts.
struct WorkerDescriptors {
  static constexpr int device = 3;     ///< /dev/fuse
  static constexpr int broker = 4;     ///< the first socket; /dev/null without passthrough
  static constexpr int reports = 5;    ///< the second socket
  static constexpr int directory = 6;  ///< O_PATH, what is to be exported
};

}  // namespace cowfs::hostfs

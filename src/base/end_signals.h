// SIGINT and SIGTERM for servers: the first asks for an orderly end, the second ends the process at once, whatever its
// threads are doing.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace weft {

// While it lives, the two signals are its. One object at a time.
class EndSignals {
 public:
  // `first` is called once, on a thread of its own, and should not wait for anything. After a second signal `farewell`
  // goes to the log and the process ends with status 1; after a third it does, even if the log takes nothing.
  EndSignals(std::function<void()> first, std::string farewell);
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

 private:
  class Watch;
  std::unique_ptr<Watch> watch_;
};

}  // namespace weft
